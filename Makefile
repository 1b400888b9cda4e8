# pg_background: SQL in background workers
#
#   make, make install, make installcheck   as for any PGXS extension; PG_CONFIG=… picks the server,
#                                           which needs the settings of packaging-tests/cluster.conf
#   make demo                               a short tour on a throw-away cluster
#   make check                              every test on every server version of this machine
#   make bench                              the benchmark, see bench/README.md
#   make deb, make rpm                      packages for this machine's servers, in dist; SERVERS='15 17' for some
#   make image                              images for Kubernetes operators, of this machine's servers from 18 on, in dist
#   make dist                               a tarball, and a zip for PGXN, in dist
#
# From demo on they install what they miss from the distribution, so they must
# work where there is no pg_config yet.

here := $(dir $(lastword $(MAKEFILE_LIST)))

standalone = bench check deb demo dist image rpm

ifneq ($(filter $(standalone),$(MAKECMDGOALS)),)

.PHONY: $(standalone)

bench:
	$(here)bench/run

check:
	$(here)packaging-tests/check

deb rpm:
	$(here)packaging-tests/native $@ $(SERVERS)

demo:
	$(here)docs/demo

dist:
	$(here)packaging-tests/dist

image:
	$(here)packaging-tests/image $(SERVERS)

else

EXTENSION = pg_background
MODULES = pg_background
# Versions that are updated by 1.11, which is the last of its kind
older = 1.0 1.1 1.2 1.3 1.4 1.6 1.7 1.8 1.9 1.10
DATA_built = $(patsubst %,pg_background--%.sql,1.7 1.6--1.7 1.11 $(older:%=%--1.11) 2.1 1.11--2.1 2.0--2.1)
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

# A script is made of the file in scripts that has the name of the version it leads
# to. A line "@part" stands for the file of that name; those that begin with "update"
# are left out, and nothing is replaced, where the script does not come from another
# version, and those that begin with "create" are left out where it does.
parts := $(wildcard $(here)scripts/*.sql)
version = $(lastword $(subst --, ,$(basename $(notdir $@))))
is_update = $(word 3,$(subst --, ,$(basename $(notdir $@))))
include_parts = sed $(foreach part,$(parts),-e '/^@$(basename $(notdir $(part)))$$/{' -e 'r $(part)' -e 'd' -e '}')
for_create = sed -e '/^@update/d' -e 's/CREATE OR REPLACE/CREATE/'
for_update = sed -e '/^@create/d'

$(DATA_built): $(parts) $(here)Makefile
	{ \
		printf '%s\n' '/* $(notdir $@) */' '' \
			'-- complain if script is sourced in psql, rather than via $(if $(is_update),ALTER,CREATE) EXTENSION' \
			'\echo Use "$(if $(is_update),ALTER EXTENSION pg_background UPDATE TO '\''$(version)'\'',CREATE EXTENSION pg_background)" to load this file. \quit' ''; \
		$(if $(is_update),$(for_update),$(for_create)) $(here)scripts/$(version).sql | $(include_parts) | $(include_parts) | \
			$(if $(is_update),$(for_update),$(for_create)); \
	} >$@.part
	mv $@.part $@

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
