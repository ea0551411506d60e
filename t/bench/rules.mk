# rules.mk - the null backend and the load of t/bench/run.pl
BENCH	:= $(B)/t/bench/null $(B)/t/bench/load $(B)/t/bench/idle

$(BENCH): $(B)/t/bench/%: $(B)/obj/t/bench/%.o
	$(call link)

bench: all $(BENCH)
	BMR_BUILD=$(abspath $(B)) perl t/bench/run.pl $(ARGS)
	BMR_BUILD=$(abspath $(B)) perl t/bench/parked.pl
