# make reproduce   the notebooks on MODEL: figures/<model>/, a table of claims     make test   ruff, pytest, strict nbval
# make lab         JupyterLab on notebooks/                                        make pretrain   train mini again (00)
# make notebooks   execute the notebooks as they are committed                     make bench   what everything costs, measured
# make clean       remove this checkout's .store and .executed; nothing else here ever removes a mask
MODEL ?= mini
CORPUS ?= sotu
TEXT_COLUMN ?= text
DEVICE ?= cpu
BENCHMARKS ?= step memory counting residual_pass overlap growth steps_to_quality
NOTEBOOKS ?= 01 02 03 04 05 06 07 08 09
PYTHON ?= python3

BIN := .venv/bin
WORK := .executed

# What a user gives reaches the shell as it was typed, in its environment: make and the shell read no $ or quote in it.
GIVEN := MODEL CORPUS TEXT_COLUMN DEVICE NOTEBOOKS
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)

# `make reproduce`, `make lab`, `make bench` and the library have one store: $BIGRAMLIB_STORE, by default .store in this checkout.
NAMED := $(value BIGRAMLIB_STORE)
STORE := $(or $(NAMED),.store)
STORE := $(if $(filter /% ~%,$(firstword $(STORE))),,$(CURDIR)/)$(STORE)
reproduce lab bench: override export BIGRAMLIB_STORE := $(STORE)
test: override export BIGRAMLIB_STORE := $(CURDIR)/$(WORK)/test/store
notebooks pretrain: override export BIGRAMLIB_STORE := $(CURDIR)/$(WORK)/store
clean: override export BIGRAMLIB_STORE := $(NAMED)

HEADLESS := reproduce test notebooks pretrain bench
$(HEADLESS): export HF_HUB_DISABLE_TELEMETRY := 1
$(HEADLESS): export WANDB_MODE := disabled
$(HEADLESS): export BIGRAMLIB_TEXT_PROGRESS := 1
$(HEADLESS): export TQDM_MININTERVAL := 3
test: export HF_HUB_OFFLINE := 1

# Notebooks run in notebooks/, so what lies here is named by its absolute path; a name that the library knows stays a name.
MODELS := mini stories15m smollm2-135m-instruct gemma-3-270m
CORPORA := sotu self
LOCATE = absolute() { case "$$1" in "~/"*) printf %s "$$HOME/$${1\#??}";; /*) printf %s "$$1";; \
		*) if [ -e "$$1" ]; then printf %s "$$PWD/$${1\#./}"; else printf %s "$$1"; fi;; esac; }; \
	located() { case " $$2 " in *" $${1%%@*} "*) printf %s "$$1"; return;; esac; \
		case "$$1" in hf:*) set -- "$${1\#hf:}"; printf hf:; if [ -e "$$1" ]; then absolute "$$1"; return; fi; \
		case "$$1" in *:*) absolute "$${1%%:*}"; printf %s ":$${1\#*:}";; *) absolute "$$1";; esac;; \
		*) absolute "$$1";; esac; }

# Notebook 02 trains its masks live; the other tests of notebooks load those that `make notebooks` trained.
LIVE := $(WORK)/test/notebooks/02_find_subnetworks.ipynb
NBVAL := $(BIN)/python -m pytest -q --nbval --nbval-cell-timeout 1200 -p no:cacheprovider --rootdir $(WORK)/test
MASKS := tests/subnetworks.zip

PAPERMILL := $(BIN)/papermill --kernel python3 --cwd notebooks --no-progress-bar --log-output

.PHONY: reproduce test lab pretrain notebooks bench clean
.DELETE_ON_ERROR:

# A model's own parameters, where its figures were not made with the notebooks' defaults, are in notebooks/settings/MODEL/NN.yaml.
reproduce: .venv/ready
	@[ ! -d .store/reproduce ] || echo "make: masks of an earlier version: cp -Rn .store/reproduce/. '$$BIGRAMLIB_STORE' keeps them"
	@$(LOCATE); model=$$(located "$$MODEL" "$(MODELS)"); corpus=$$(located "$$CORPUS" "$(CORPORA)"); \
	name=$$($(BIN)/python -m bigramlib check --model="$$model" --corpus="$$corpus" --text-column="$$TEXT_COLUMN" \
		--device="$$DEVICE" --notebooks="$$NOTEBOOKS") || exit 1; \
	mkdir -p "$(WORK)/$$name"; \
	for number in $$NOTEBOOKS; do \
		echo "== notebook $$number on $$MODEL"; \
		settings="notebooks/settings/$$MODEL/$$number.yaml"; \
		[ -e "$$settings" ] && set -- -f "$$settings" || set --; \
		$(PAPERMILL) notebooks/$${number}_*.ipynb "$(WORK)/$$name/$$number.ipynb" "$$@" -r model "$$model" -r corpus "$$corpus" \
			-r text_column "$$TEXT_COLUMN" -r device "$$DEVICE" -r figures "$$PWD/figures" || exit 1; \
	done; \
	$(BIN)/python -m bigramlib claims --model="$$model"

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q
	rm -rf $(WORK)/test && mkdir -p $(WORK)/test/store && cp -r notebooks figures $(WORK)/test/
	$(NBVAL) $(LIVE)
	$(BIN)/python -m zipfile -e $(MASKS) $(WORK)/test/store
	$(NBVAL) $(WORK)/test/notebooks --ignore $(LIVE)

lab: .venv/ready
	$(BIN)/jupyter lab --notebook-dir=notebooks

pretrain: .venv/ready
	@mkdir -p $(WORK)
	$(PAPERMILL) notebooks/00_pretrain_mini.ipynb $(WORK)/00.ipynb -r setting mini -r figures "$$PWD/figures"

# Masks of earlier runs are used again; to train all from nothing, remove tests/subnetworks.zip and .executed/store first.
# Not 10: it surveys the models in the store of `make reproduce`, by `make reproduce NOTEBOOKS=10`.
notebooks: .venv/ready
	@mkdir -p $(WORK)/notebooks $(WORK)/store
	@if [ -e $(MASKS) ]; then $(BIN)/python -m zipfile -e $(MASKS) $(WORK)/store; fi
	@for notebook in notebooks/0*.ipynb; do \
		$(PAPERMILL) $$notebook $(WORK)/$$notebook -r figures ../figures || exit 1; \
		$(BIN)/python -m bigramlib tidy $(WORK)/$$notebook && mv $(WORK)/$$notebook $$notebook || exit 1; \
	done
	@$(BIN)/python -m zipfile -c $(WORK)/subnetworks.zip $(WORK)/store/subnetworks && mv $(WORK)/subnetworks.zip $(MASKS)

bench: .venv/ready
	@for question in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$question || exit 1; done

clean:
	@$(LOCATE); unset CDPATH; given=$$(cd "$$(absolute "$${BIGRAMLIB_STORE:-/}")" 2>/dev/null && pwd -P); \
	for place in .store $(WORK); do \
		[ -e $$place ] || continue; \
		case "$$given/" in \
			"$$(cd $$place && pwd -P)"/*) echo "$$place is left: BIGRAMLIB_STORE is there; remove it by hand";; \
			*) echo "removing $$PWD/$$place, $$(du -sh $$place | cut -f1)"; rm -rf $$place;; \
		esac; \
	done

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name a newer one with PYTHON=."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebooks,test]'
	@touch $@
