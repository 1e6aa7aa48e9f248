# Two commands set everything up on a fresh machine: `make demo` and `make test`.
VENV := .venv
BIN := $(VENV)/bin
LINKS := build/typing/viewstore
STAMP := $(VENV)/.installed
DEMO := demo

.PHONY: demo test test-slow check lint types format bench bench-tune demo-weights clean

$(STAMP): pyproject.toml constraints.txt setup.py viewstore/images/crops.c viewstore/draws.c
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet -e . --group dev -c constraints.txt
	touch $@

demo: $(STAMP)
	$(BIN)/viewstore build --generator w-search --limit 256 --out $(DEMO)/views
	$(BIN)/viewstore verify $(DEMO)/views
	$(BIN)/viewstore train $(DEMO)/views --method simclr --views digits,digits,w-search \
	  --strategy a2 --backbone conv6 --epochs 5 --batch-size 64 --out $(DEMO)/run
	$(BIN)/viewstore inspect $(DEMO)/views --sheet $(DEMO)/sheet.png
	$(BIN)/viewstore inspect $(DEMO)/views --html $(DEMO)/report.html
	@echo "look at $(DEMO)/sheet.png and $(DEMO)/report.html"

# Without files of bytecode each of the many processes would compile all that it imports.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -n auto

check: lint types test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) $(LINKS)
	$(BIN)/mypy

$(LINKS):
	mkdir -p $@
	ln -sfn $(addprefix ../../../,viewstore/__init__.py generators loaders train) $@/

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# On a quiet machine, 20 minutes; peers that .venv lacks: VIEWSTORE_PEERS_PYTHON (docs/benchmarks.md).
bench: $(STAMP)
	$(BIN)/python benchmarks/loaders.py --out benchmarks/results/loaders.json
	$(BIN)/python benchmarks/w_search.py
	$(BIN)/python benchmarks/table.py

# Which settings suit each peer on this machine; `make bench` takes the best. 15 minutes.
bench-tune: $(STAMP)
	$(BIN)/python benchmarks/loaders.py --tune --workloads A,B,C,D,E

# Retrain what the package ships, with the commands of weights/PROVENANCE.json (6 CPU minutes).
demo-weights: $(STAMP)
	mkdir -p $(DEMO)
	$(BIN)/viewstore gan train --source digits --holdout 4 --threads 1 --part generator \
	  --kimg 120 --out $(DEMO)/digits-gan.safetensors
	$(BIN)/viewstore train --source digits --views digits,digits --holdout 4 --negatives other \
	  --temperature 0.5 --backbone conv3 --in-channels 1 --projector 128,64 --optimizer adam \
	  --lr 1e-3 --weight-decay 1e-5 --schedule constant --batch-size 256 --steps 300 --seed 0 \
	  --threads 1 --half --out $(DEMO)/digits-encoder
	$(BIN)/viewstore gan train --source digits --holdout 4 --threads 1 --part inverter \
	  --gan $(DEMO)/digits-gan.safetensors --encoder $(DEMO)/digits-encoder/encoder.safetensors \
	  --out $(DEMO)/digits-inverter.safetensors
	$(BIN)/viewstore eval $(DEMO)/digits-encoder --source digits --holdout 4 --probe linear

clean:
	rm -rf build dist *.egg-info viewstore/*.so viewstore/images/*.so .mypy_cache .pytest_cache .ruff_cache $(DEMO)
