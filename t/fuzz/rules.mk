# rules.mk - the fuzz targets (clang, libFuzzer); each names the sources that it needs in a line "LINK:"
FUZZ_SECONDS ?= 20
FUZZ	:= $(patsubst t/fuzz/%.c,%,$(wildcard t/fuzz/*.c))
FUZZFLAGS := -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -DNO_MAIN -g -O1 $(CSTD) -fno-strict-aliasing

define fuzz_rule
build/fuzz/$(1): t/fuzz/$(1).c $$(call linkof,t/fuzz/$(1).c) $(wildcard t/lib/*.h)
	@mkdir -p $$(@D)
	clang $$(CPPFLAGS) $$(FUZZFLAGS) -o $$@ $$(filter %.c,$$^) -lev -lbsd -lmd
endef
$(foreach f,$(FUZZ),$(eval $(call fuzz_rule,$(f))))

# Each runs for FUZZ_SECONDS from its committed seeds; a finding is left in build/fuzz and fails the target.
fuzz: $(FUZZ:%=build/fuzz/%)
	@set -e; for f in $(FUZZ); do mkdir -p build/fuzz/corpus/$$f; cp -n t/fuzz/seeds/$$f/* build/fuzz/corpus/$$f/ 2>/dev/null || :; \
	    echo "fuzz $$f"; build/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/$$f- build/fuzz/corpus/$$f 2>&1 | grep -E 'SUMMARY|ERROR|stat::number_of_executed|DONE|rig:' ; \
	    test -z "$$(ls build/fuzz/$$f-* 2>/dev/null)"; done
