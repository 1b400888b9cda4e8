# pg_background: SQL in background workers
#
#   make, make install, make installcheck   as for any PGXS extension; PG_CONFIG=… picks the server,
#                                           which needs the settings of packaging-tests/cluster.conf
#   make demo                               a short tour on a throw-away cluster
#   make check                              every test on every server version of this machine
#   make bench                              the benchmark, see bench/README.md
#   make deb, make rpm                      packages for every server, in dist; SERVERS='15 17' for some
#   make dist                               a tarball, and a zip for PGXN, in dist
#
# From demo on they install what they miss from the distribution, so they must
# work where there is no pg_config yet.

here := $(dir $(lastword $(MAKEFILE_LIST)))

standalone = bench check deb demo dist rpm

ifneq ($(filter $(standalone),$(MAKECMDGOALS)),)

.PHONY: $(standalone)

bench:
	$(here)bench/run

check:
	$(here)packaging-tests/check

deb rpm:
	$(here)packaging-tests/run -b $@ $(SERVERS)

demo:
	$(here)docs/demo

dist:
	$(here)packaging-tests/dist

else

EXTENSION = pg_background
MODULES = pg_background
# What updates 1.7 updates these, too.
DATA_built = $(foreach from,1.8 1.9 1.10,pg_background--$(from)--1.11.sql)
DATA = $(filter-out $(DATA_built),$(notdir $(wildcard $(here)pg_background--*.sql)))

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

REGRESS = $(patsubst %.sql,%,$(notdir $(wildcard $(here)sql/*.sql)))
ISOLATION = $(patsubst %.spec,%,$(notdir $(wildcard $(here)specs/*.spec)))
TAP_TESTS = 1

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(wildcard $(PGXS)),)
$(error $(PG_CONFIG) leads to no server headers: install postgresql-server-dev-NN, or give PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)

$(DATA_built): pg_background--1.7--1.11.sql
	cp $< $@

# A server whose settings do not do for the tests is told so first. TAP tests have
# servers of their own, and so has pg_regress with --temp-instance.
ifneq ($(strip $(REGRESS) $(ISOLATION)),)
ifeq ($(filter --temp-instance%,$(EXTRA_REGRESS_OPTS)),)

.PHONY: check-settings

installcheck: check-settings

check-settings:
	@$(here)packaging-tests/settings '$(shell $(PG_CONFIG) --bindir)/psql'

endif
endif

endif
