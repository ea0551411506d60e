# rules.mk - building and running the tests; each t/unit/X.c names the objects that it needs in a line "LINK:"
UNIT	:= $(patsubst t/unit/%.c,$(B)/t/unit/%,$(wildcard t/unit/*.c))
linkof	= $(shell sed -n 's|^/\* LINK: \(.*\) \*/$$|\1|p' $(1))

define unit_rule
$(B)/t/unit/$(1): $$(patsubst %.c,$$(B)/obj/%.o,t/unit/$(1).c $$(call linkof,t/unit/$(1).c))
	@mkdir -p $$(@D)
	$$(CC) -pie $$(LDFLAGS) -o $$@ $$(filter %.o,$$^) $$(LIBS) -lconfuse -lseccomp -ljansson -lssl -lcrypto -lpthread
endef
$(foreach u,$(notdir $(UNIT)),$(eval $(call unit_rule,$(u))))

# what a system test needs beside the gateway
HELPERS	:= $(B)/t/lib/killat $(B)/t/lib/callas $(B)/t/lib/keyupdates $(B)/t/bench/null $(B)/t/bench/load
$(B)/t/lib/keyupdates: HELPER_LIBS := -lssl -lcrypto
$(B)/t/lib/%: t/lib/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CSTD) $(WARN) -O2 -g -o $@ $< $(HELPER_LIBS)

# POP3 as another release might have it: its state in another format (t/sys/formats.t)
NEXT	:= $(B)/t/lib/next/bmr-pop3
$(B)/obj/next/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DPOP3_NEXT -MMD -MP -c -o $@ $<
$(NEXT): $(patsubst %.c,$(B)/obj/%.o,$(SUP) $(ENGINE)) $(patsubst %.c,$(B)/obj/next/%.o,$(wildcard pop3/*.c) t/lib/pop3_next.c)
	$(call link,$(STATIC) $(LIBS) -lseccomp -lm)
HELPERS	+= $(NEXT)

check: packages all $(UNIT) $(HELPERS)
	BMR_BUILD=$(abspath $(B)) prove -It/lib --timer -j$(or $(JOBS),2) $(or $(TESTS),$(UNIT) $(wildcard t/sys/*.t t/lint/*.t))

-include t/bench/rules.mk t/fuzz/rules.mk

demo: packages all
	BMR_BUILD=$(abspath $(B)) perl t/demo/demo.pl

packages:
	@sh t/lib/packages

unit: $(UNIT)
	prove --timer $(UNIT)

lint:
	prove t/lint

# the long forms of t/sys; a number above 1 is the seconds of chaos.t, which are 600 else
BMR_SOAK ?= 1
soak: packages all $(HELPERS)
	BMR_SOAK=$(BMR_SOAK) BMR_BUILD=$(abspath $(B)) prove -It/lib --timer $(or $(TESTS),t/sys)

.PHONY: packages unit
