# rules.mk - the null backend and the load of t/bench/run.pl
BENCH	:= $(B)/t/bench/null $(B)/t/bench/load $(B)/t/bench/idle $(B)/t/bench/tlsload

$(BENCH): $(B)/t/bench/%: $(B)/obj/t/bench/%.o
	$(call link,$(if $(filter %tlsload %idle,$@),-lssl -lcrypto))

bench: all $(BENCH)
	BMR_BUILD=$(abspath $(B)) perl t/bench/run.pl $(ARGS)
	BMR_BUILD=$(abspath $(B)) perl t/bench/parked.pl
	BMR_BUILD=$(abspath $(B)) perl t/bench/resume.pl

bench-tls: all $(BENCH)
	BMR_BUILD=$(abspath $(B)) perl t/bench/tls.pl $(ARGS)

bench-mailbox: all
	BMR_BUILD=$(abspath $(B)) perl t/bench/mailbox.pl

.PHONY: bench-tls bench-mailbox
