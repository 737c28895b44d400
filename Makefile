# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
#
# Everything happens inside .venv; nothing of the machine's own ROS or Python is used or changed.

SHELL  := /bin/bash
PYTHON ?= python3
VENV   := $(CURDIR)/.venv
ROS    := $(VENV)/ros
BAG    ?= sample/bag
BUNDLE ?= sample/bundle
OUT    ?= out/demo
MINUTES ?= 30
TESTS  ?= test rgbx_seg_train/tests

# Files of tests of training whose processes, which they start and kill, disturb those of pytest.
ALONE := test_loader.py test_processes.py
# Files in the order of their names. By default those of few tests, which take longest, are last, one
# process with them while the others have ended.
BY_FILE := --dist loadfile --no-loadscope-reorder

# A ROS installation sourced in the caller's shell would mix with the one in .venv, and its choice of
# middleware may be absent there. Confined to this machine, Fast DDS drops the transport for images.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO RMW_IMPLEMENTATION ROS_LOCALHOST_ONLY ROS_AUTOMATIC_DISCOVERY_RANGE ROS_STATIC_PEERS
# What make -j tells other makes would reach those of colcon, to whom it means nothing.
unexport MAKEFLAGS

# Python compiles what is imported, when it is; pip would compile all of 20,000 files, for minutes.
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check install -qq --no-compile
IN_ENV := source $(VENV)/bin/activate &&
IN_ROS := $(IN_ENV) source $(ROS)/install/setup.bash &&

PACKAGE_PARTS := CMakeLists.txt package.xml setup.cfg config launch msg rgbx_seg_ros sample
# Installed as links: contents may change at will, only these names and these files need a build.
INSTALLED_NAMES := $(sort $(shell find config launch rgbx_seg_ros sample -type f -not -name '*.pyc'))
# Message packages that PyPI lacks; their stand-ins are built where the real ones are missing.
STAND_INS := vision_msgs tf2_msgs
BUILT_FILES := CMakeLists.txt package.xml setup.cfg $(wildcard msg/*.msg) $(shell find $(STAND_INS:%=test/%) -type f)

.PHONY: help demo classes-demo eval test test-gpu lint docs fuzz cycles soak sample wheels release ros clean FORCE
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(ROS)/.built  ## play BAG through the node with BUNDLE, write a report to OUT
	@$(IN_ROS) python -m demo --bag '$(BAG)' --bundle '$(BUNDLE)' --out '$(OUT)' $(ARGS)

classes-demo: OUT = out/classes
classes-demo: THEN = --then 'unlabeled,person' --then persn --then 'unlabeled,car,bike,person'
classes-demo: $(ROS)/.built  ## change the classes while BAG plays, with a BUNDLE that lets them be chosen
	@$(IN_ROS) python -m demo.classes --bag '$(BAG)' --bundle '$(BUNDLE)' --out '$(OUT)' $(or $(ARGS),$(THEN))

eval: OUT = out/eval
eval: $(ROS)/.built  ## evaluate BAG with BUNDLE, without ROS or playing, and write a report to OUT
	@$(IN_ENV) rgbx_eval_bag '$(BAG)' --bundle '$(BUNDLE)' --out '$(OUT)' $(ARGS)

test: $(ROS)/.built $(VENV)/.test  ## run all tests: runtime, ROS, training (TESTS=... for some)
	@# A process per core for the tests of training, which compute; those over DDS mostly wait, for two.
	@$(IN_ROS) status=0; for tests in $(TESTS); do case $$tests in \
	  rgbx_seg_train/tests|rgbx_seg_train/tests/) \
	    OMP_NUM_THREADS=1 python -m pytest $(BY_FILE) -n auto $$tests $(ALONE:%=--ignore=$$tests/%) || status=1; \
	    printf '%s\n' $(ALONE) | OMP_NUM_THREADS=1 xargs -P 2 -I{} python -m pytest -q $$tests/{} || status=1;; \
	  rgbx_seg_train*) OMP_NUM_THREADS=1 python -m pytest $$tests || status=1;; \
	  *) python -m pytest $(BY_FILE) -n 2 $$tests || status=1;; esac; done; exit $$status

test-gpu: $(ROS)/.built $(VENV)/.test  ## run the tests that need a GPU: real engines of all that is installed
	@$(IN_ROS) python -m pytest -m gpu $(TESTS)

lint: $(VENV)/.lint  ## check style with ruff and types with mypy
	@$(IN_ENV) ruff check . && mypy rgbx_seg_ros

docs: $(ROS)/.built $(VENV)/.test $(VENV)/.docs  ## build the site into out/docs, the pages that come from the code anew
	@$(IN_ROS) python scripts/make_docs.py && NO_MKDOCS_2_WARNING=1 mkdocs build -q --strict
	@echo "make: open out/docs/index.html"

fuzz: $(ROS)/.built $(VENV)/.test  ## feed the node 100000 messages of nonsense (ARGS='--seed 1')
	@$(IN_ROS) python test/fuzz.py --cases 100000 --dds 2000 $(ARGS)

cycles: $(ROS)/.built $(VENV)/.test  ## take the node through its lifecycle 200 times in one process
	@$(IN_ROS) python test/test_lifecycle.py $(or $(ARGS),200)

soak: $(ROS)/.built $(VENV)/.test  ## run the node at 30 Hz for MINUTES=30 and watch its memory
	@$(IN_ROS) python test/soak.py --minutes $(MINUTES) $(ARGS)

sample: $(ROS)/.built $(VENV)/.test  ## make sample/ anew: training (an hour on 2 cores), export, bag
	@$(IN_ROS) bash sample/make.sh

wheels: $(VENV)/.release  ## build source archives and wheels of both packages into dist/
	@# From the archive, so that a wheel holds nothing that the archive lacks; with what .venv has.
	@rm -rf dist && for package in . rgbx_seg_train; do \
	  $(VENV)/bin/python -m build --no-isolation --outdir dist $$package >dist.log 2>&1 \
	  || { cat dist.log; exit 1; }; done; rm -f dist.log
	@ls dist

release:  ## give the changes of no release yet a number: VERSION=0.2.0, in all places
	@$(PYTHON) scripts/release.py $(VERSION) $(ARGS)

ros: $(ROS)/.built  ## only set up .venv and build the ROS package

clean:  ## remove the environment and all outputs
	rm -rf $(VENV) out build dist install log

$(VENV)/.demo: requirements/demo.txt requirements/constraints.txt scripts/ros_from_pypi.py pyproject.toml setup.cfg
	@echo "make: installing the runtime, ROS 2 and build tools into .venv"
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 13) or sys.exit( \
	  "make: %s is Python %d.%d, expected 3.10 to 3.12: say make PYTHON=python3.11" % ("$(PYTHON)", v[0], v[1]))'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements/demo.txt
	@$(VENV)/bin/python scripts/ros_from_pypi.py
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt requirements/constraints.txt rgbx_seg_train/pyproject.toml | $(VENV)/.demo
	@echo "make: installing torch and the test tools into .venv"
	@$(PIP) -r requirements/test.txt
	@$(PIP) --no-deps --no-build-isolation --editable rgbx_seg_train
	@touch $@

$(VENV)/.docs: requirements/docs.txt requirements/constraints.txt | $(VENV)/.test
	@$(PIP) -r requirements/docs.txt
	@touch $@

$(VENV)/.lint: requirements/lint.txt requirements/constraints.txt | $(VENV)/.demo
	@$(PIP) -r requirements/lint.txt
	@touch $@

$(VENV)/.release: requirements/release.txt requirements/constraints.txt | $(VENV)/.demo
	@$(PIP) -r requirements/release.txt
	@touch $@

# A workspace of links: CMake refuses include folders (NumPy's) that lie inside a source folder.
$(ROS)/.built: $(VENV)/.demo $(ROS)/names $(BUILT_FILES)
	@echo "make: building the ROS package with colcon in .venv/ros"
	@mkdir -p $(ROS)/src/rgbx_seg
	@ln -sfnt $(ROS)/src/rgbx_seg $(PACKAGE_PARTS:%=$(CURDIR)/%)
	@for name in $(STAND_INS); do $(VENV)/bin/python -c "import $$name" 2>/dev/null \
	  || ln -sfnt $(ROS)/src $(CURDIR)/test/$$name; done
	@$(IN_ENV) cd $(ROS) && AMENT_PREFIX_PATH=$(VENV) CMAKE_PREFIX_PATH=$(VENV) colcon --log-level error build \
	  --symlink-install --base-paths src --event-handlers console_stderr- \
	  --cmake-args -DPython3_EXECUTABLE=$(VENV)/bin/python3 -DBUILD_TESTING=OFF --no-warn-unused-cli
	@touch $@

$(ROS)/names: FORCE
	@mkdir -p $(ROS)
	@echo $(INSTALLED_NAMES) | cmp -s - $@ || echo $(INSTALLED_NAMES) > $@
