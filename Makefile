# The workbook's commands. Python 3.11 to 3.14 is looked for; PYTHON=... names another.

BIN = .venv/bin
# Without it each kernel warns in the terminal; on a shared host it is right anyway.
KERNELS = --KernelManager.transport_encryption=auto
SOAK_SECONDS = 600
# For a room without network: `make wheels` fills it, `make setup WHEELS=...` takes all from it.
WHEELS ?=
# More than there are processors: most of the time is waiting.
SIDE_BY_SIDE = -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup lab check test notebooks bench soak wheels clean set-up-again
# What the targets share, first of all .venv, is no place for two at once.
.NOTPARALLEL:

help:
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make setup      install what the notebooks need, into .venv; the others do so themselves"
	@echo "make check      say in ten seconds whether this machine is ready, and what to do if not"
	@echo "make test       check everything: lint, types, tests, and each notebook's stored outputs"
	@echo "make notebooks  for authors: write the notebooks from their solutions, run them, and store"
	@echo "                the outputs that have changed; refuses to lose a learner's answers"
	@echo "make bench      measure against other HTTP/3 servers and clients (ROW=... for one row)"
	@echo "make soak       stream for SOAK_SECONDS=$(SOAK_SECONDS) and watch memory and tasks"
	@echo "make wheels     for a room without network: put what setup installs into WHEELS=FOLDER"
	@echo "make clean      remove .venv, caches and certificates: nothing that you wrote"

# The set-up also runs again where the Python has gone that .venv was made with.
GONE := $(shell test ! -e .venv/.ready || \
    .venv/bin/python -c 'import _pytest' >/dev/null 2>&1 || echo yes)

.venv/.ready: requirements.txt .ci/constraints.txt .ci/setup $(if $(GONE),set-up-again)
	@WHEELS="$(WHEELS)" sh .ci/setup

.venv/.ready-for-tests: tests/requirements.txt .venv/.ready
	@WHEELS="$(WHEELS)" sh .ci/setup tests

setup: .venv/.ready

lab: .venv/.ready
	@echo "JupyterLab starts; Control-C here, twice, stops it."
	@$(BIN)/python -m jupyterlab --log-level=WARN $(KERNELS) --ip=127.0.0.1 \
	    --ServerApp.root_dir="$(CURDIR)" \
	    --LabApp.app_settings_dir=.jupyter --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb \
	    $$(test "$$(id -u)" -ne 0 || echo --allow-root) $(ARGS)

check: .venv/.ready
	@$(BIN)/python -m helpers.preflight

# ARGS are for pytest, for example ARGS="-k flush"; ARGS=-n0 runs one test after the other.
test: .venv/.ready-for-tests
	@$(BIN)/ruff check helpers tests
	@$(BIN)/ruff format --check helpers tests
	@$(BIN)/python -m mypy --no-error-summary
	@$(BIN)/python -m pytest --nbval $(SIDE_BY_SIDE) $(ARGS) tests notebooks

# The learners' notebooks come from the solutions first, unless that would lose what a learner wrote:
# ARGS=--overwrite loses it. ARGS=--all stores all outputs anew. Unlisted notebooks are left alone.
notebooks: .venv/.ready-for-tests
	@$(BIN)/python -m tests.exercises $(filter --overwrite,$(ARGS))
	@$(BIN)/python -m tests.refresh $(KERNELS) $(filter-out --overwrite,$(ARGS))

bench: .venv/.ready-for-tests
	@$(BIN)/python -m tests.bench $(ROW) $(ARGS)

soak: .venv/.ready-for-tests
	@$(BIN)/python -m tests.soak $(SOAK_SECONDS)

wheels: .venv/.ready
	@test -n "$(WHEELS)" || { echo "Name a folder: make wheels WHEELS=FOLDER" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --only-binary :all: \
	    --dest "$(WHEELS)" --requirement requirements.txt
	@echo "Elsewhere, with the same Python and system: make setup WHEELS=$(WHEELS)"

# By name what the project makes, so that nothing else goes: a folder is removed only if it is empty
# then. Jupyter's .ipynb_checkpoints stay: in them a learner finds the notebook as last saved.
CERTS = certs notebooks/certs notebooks/solutions/certs
CERT_FILES = ca.pem cert.pem key.pem ca.pem.new cert.pem.new key.pem.new .lock .lock-journal

clean:
	rm -rf .venv .bench .mypy_cache .pytest_cache .ruff_cache
	find helpers tests -type d -name __pycache__ -prune -exec rm -rf {} +
	rm -f notebooks/__pycache__/conftest.*.pyc
	@rm -f $(foreach folder,$(CERTS),$(addprefix $(folder)/,$(CERT_FILES)))
	@rmdir notebooks/__pycache__ $(CERTS) 2>/dev/null || true
