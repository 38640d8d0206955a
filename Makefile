# Every command sets up what it needs; a second call finds it there. `make help` reads the texts behind ##.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help install run demo test lint check soak chaos fuzz hostile screenshots bench bench-quality format

help: ## says what each command does; plain `make` does too
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed ## makes .venv with what running needs

.venv/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/.installed-dev: requirements-dev.txt requirements.txt .venv/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

run: install ## the whole service on http://127.0.0.1:8000; Ctrl-C drains and stops it
	@exec $(PY) server.py

demo: install ## the main job end to end on a free port; exit 0 only if every image succeeded
	@exec $(PY) demo.py

# Most tests wait for processes and leases more than they compute, so some files go on side by side.
WORKERS ?= 3
test: .venv/.installed-dev tests/node_modules/.package-lock.json ## every test, three files at a time: make test WORKERS=1
	$(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

# Without npm the tests that need its packages are skipped, and say so.
tests/node_modules/.package-lock.json: tests/package.json tests/package-lock.json
	-npm ci --prefix tests --no-audit --no-fund --silent && touch $@

lint: .venv/.installed-dev ## format check, lint, strict types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

check: lint test ## lint and test

# PostgreSQL goes away again and again under load: make soak MINUTES=30
MINUTES ?= 5
soak: .venv/.installed-dev ## a steady load while PostgreSQL goes away: make soak MINUTES=30
	$(PY) -m tests.chaos.soak --minutes $(MINUTES)

# Every process is killed at every point that matters, and stopped past its lease.
chaos: .venv/.installed-dev ## kills every process at every point that matters: make chaos CHAOS="--rounds 5"
	$(PY) -m tests.chaos.chaos $(CHAOS)

# Inputs that break a promise are searched for, guided by coverage: make fuzz MINUTES=60
fuzz: .venv/.installed-fuzz ## searches for inputs that break a promise: make fuzz MINUTES=60 FUZZ="--targets csv_file"
	$(PY) -m tests.fuzz.fuzz --minutes $(MINUTES) $(FUZZ)

.venv/.installed-fuzz: requirements-fuzz.txt .venv/.installed-dev
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-fuzz.txt
	touch $@

# Every file of a folder is sent as a stranger's would be: make hostile FOLDER=path HOSTILE="--options all"
hostile: .venv/.installed-dev ## sends every file of a folder as a stranger would: make hostile FOLDER=path
	$(PY) -m tests.hostile.hostile "$(FOLDER)" $(HOSTILE)

screenshots: .venv/.installed-dev ## takes the README's pictures of the page in the system's Chromium
	$(PY) -m tests.browser.screenshots

# With real photos: make bench FOLDER=path PEERS="--rounds 3 --scenes 0 200"
bench: .venv/.installed-bench .venv/img2dataset/.installed benchmarks/node_modules/.package-lock.json ## the service beside its peers, then all other benchmarks: make bench FOLDER=path
	$(PY) benchmarks/peers.py $(if $(FOLDER),"$(FOLDER)") $(PEERS)
	$(PY) benchmarks/scaling.py $(if $(FOLDER),"$(FOLDER)")
	$(PY) benchmarks/time_spent.py $(if $(FOLDER),"$(FOLDER)")
	$(PY) benchmarks/codec.py $(if $(FOLDER),"$(FOLDER)")
	$(PY) benchmarks/memory.py
	$(PY) benchmarks/upload.py
	$(PY) benchmarks/claims.py --threads 4
	$(PY) benchmarks/growth.py --images 1000 100000
	$(PY) benchmarks/workers.py
	$(PY) benchmarks/http_rates.py
	$(PY) benchmarks/slow_clients.py
	$(if $(FOLDER),$(PY) benchmarks/scaling_down.py "$(FOLDER)")

# Encoders side by side on a folder of photos: make bench-quality FOLDER=path QUALITY="--photos 30"
bench-quality: .venv/.installed-bench benchmarks/node_modules/.package-lock.json ## encoders side by side on a folder of photos: make bench-quality FOLDER=path
	$(PY) benchmarks/quality.py "$(or $(FOLDER),samples)" $(QUALITY)

.venv/.installed-bench: requirements-bench.txt .venv/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	touch $@

# Where it can't be installed the benchmark goes on without it, and says so.
.venv/img2dataset/.installed: requirements-img2dataset.txt .venv/.installed
	-$(PY) -m venv .venv/img2dataset && .venv/img2dataset/bin/python -m pip install --quiet \
		--disable-pip-version-check -r requirements-img2dataset.txt && touch $@

# Without npm the benchmark goes on without sharp, and says so.
benchmarks/node_modules/.package-lock.json: benchmarks/package.json benchmarks/package-lock.json
	-npm ci --prefix benchmarks --no-audit --no-fund --silent && touch $@

format: .venv/.installed-dev ## formats, and mends what the linter can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
