# make reproduce   the notebooks on MODEL: figures/<model>/, a table of claims     make test   ruff, mypy, pytest, strict nbval
# make lab         JupyterLab on notebooks/                                        make pretrain   train mini again (00)
# make figures     the same from the masks in tests/subnetworks.zip: no training    make bench   what everything costs, measured
# make notebooks   execute the notebooks as they are committed
# make sweep       a grid of searches, SWEEP=sweep.yaml: a table                  make gpu-check  what a GPU finds and costs
# make clean       remove this checkout's .store and .executed; no mask else       make cluster-test  searches on a SLURM, started here
# make report      report/index.html: claims, executed notebooks and the API, as pages to read and share
BENCHMARKS ?= step memory counting evaluation residual_pass overlap growth steps_to_quality sweep
PYTHON ?= python3
SLURM := munged slurmctld slurmd sbatch srun
BIN := .venv/bin
# What a user gives reaches the environment as it was typed: neither make nor the shell reads a $ or a quote in it.
GIVEN := MODEL CORPUS TEXT_COLUMN DEVICE NOTEBOOKS SWEEP SCHEDULER PROCESSES BIGRAMLIB_STORE
$(foreach name,$(GIVEN),$(if $(filter command,$(origin $(name))),$(eval override export $(name) := $$(value $(name)))))
.PHONY: reproduce figures sweep test lab pretrain notebooks report bench gpu-check cluster-test slurm-is-here clean
reproduce figures sweep pretrain notebooks report: .venv/ready
	@HF_HUB_DISABLE_TELEMETRY=1 $(BIN)/python -m bigramlib $@
test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal
	$(BIN)/python -m pytest -q -s tests/project/committed_notebooks.py
lab: .venv/ready
	@case "$$BIGRAMLIB_STORE" in [!/~]*) BIGRAMLIB_STORE=$$PWD/$$BIGRAMLIB_STORE;; esac; \
	$(BIN)/jupyter lab --notebook-dir=notebooks $$([ "$$(id -u)" != 0 ] || echo --allow-root)
bench: .venv/ready
	@for question in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$question || exit 1; done
gpu-check: .venv/ready
	@$(BIN)/python -m benchmarks.gpu_check
cluster-test: slurm-is-here .venv/ready
	$(BIN)/python -m pytest -q -s tests/cluster/on_slurm.py
slurm-is-here:
	@for program in $(SLURM); do PATH=$$PATH:/usr/sbin:/sbin command -v $$program >/dev/null || { \
		echo "make: $$program is missing; apt-get install slurm-wlm munge (or your system's packages) brings it."; exit 1; }; done
clean:
	@unset CDPATH; case "$$BIGRAMLIB_STORE" in "~/"*) BIGRAMLIB_STORE=$$HOME$${BIGRAMLIB_STORE#?};; esac; \
	named=$$(cd "$${BIGRAMLIB_STORE:-/}" 2>/dev/null && pwd -P); for place in .store .executed; do [ ! -e $$place ] || \
		case "$$named/" in "$$(cd $$place && pwd -P)"/*) echo "$$place is left: BIGRAMLIB_STORE is there; remove it by hand";; \
		*) echo "removing $$PWD/$$place, $$(du -sh $$place | cut -f1)"; rm -rf $$place;; esac; done
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name a newer one with PYTHON=."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cluster,lora,notebooks,test]'
	@touch $@
