# The workbook's commands. Python 3.11 or later is looked for; PYTHON=... names another.

BIN = .venv/bin
SOAK_SECONDS = 600

.PHONY: help lab test notebooks bench soak clean

help:
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make test       check everything: lint, tests, and each notebook's stored outputs"
	@echo "make notebooks  run the notebooks and store their outputs again"
	@echo "make bench      measure against other HTTP/3 servers and clients (ROW=... for one row)"
	@echo "make soak       stream for SOAK_SECONDS=$(SOAK_SECONDS) and watch memory and tasks"
	@echo "make clean      remove .venv and what the other commands leave"

.venv/.ready: requirements.txt .ci/setup
	@sh .ci/setup

lab: .venv/.ready
	@$(BIN)/python -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
	    --LabApp.default_url=/lab/tree/notebooks \
	    $$(test "$$(id -u)" -ne 0 || echo --allow-root) $(ARGS)

test: .venv/.ready
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/python -m pytest --nbval $(ARGS) tests notebooks

notebooks: .venv/.ready
	@$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=WARN \
	    --ExecutePreprocessor.record_timing=False notebooks/*.ipynb notebooks/*/*.ipynb
	@$(BIN)/nbstripout --keep-output --keep-count --keep-id \
	    --extra-keys "metadata.language_info.version cell.metadata.execution" \
	    notebooks/*.ipynb notebooks/*/*.ipynb

bench: .venv/.ready
	@$(BIN)/python -m tests.bench $(ROW)

soak: .venv/.ready
	@$(BIN)/python -m tests.soak $(SOAK_SECONDS)

clean:
	rm -rf .venv .bench .pytest_cache .ruff_cache
	rm -rf certs notebooks/certs notebooks/*/certs
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
