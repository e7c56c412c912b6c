# make report        set up, run the suite on the quick profile, say where the report is
# make test          set up, check the format, run the tests on all cores
# make check         set up, check only format and lint; `ruff format` and `ruff check --fix` mend most
# make drills        set up, kill workers and the command during smoke reports, expect the same numbers (long)
# make fuzz          set up, send 500 random notebooks through both exporters
# make lab           set up, open the notebooks in JupyterLab
# make benchmark     set up, measure training speed against the usual loop
# make cluster-demo  set up, run the smoke report on a Dask scheduler and two workers of this machine
# make clean         remove the environment and built reports; recorded runs, data and reports on one's own data stay

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: report test check drills fuzz lab benchmark cluster-demo clean

report: $(READY)
	$(BIN)/python -m kdutils report $(ARGS)

test: check
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -o faulthandler_timeout=300 --numprocesses logical --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

drills: $(READY)
	KD_DRILLS=20 $(BIN)/python -m pytest --capture no tests/test_drills.py tests/runs/test_schedule.py $(ARGS)

fuzz: $(READY)
	$(BIN)/python -m pytest tests/report/test_random_notebooks.py --hypothesis-profile=fuzz $(ARGS)

lab: $(READY)
	$(BIN)/python -m kdutils lab

benchmark: $(READY)
	$(BIN)/python -m tests.benchmarks $(ARGS)

cluster-demo: $(READY)
	$(BIN)/python -m tests.benchmarks.cluster_demo $(ARGS)

# uv installs the same wheels as pip, with several downloads at once. They are compiled here, as by pip: where Python may
# write no bytecode (PYTHONDONTWRITEBYTECODE), each process would compile PyTorch anew, which takes longer than most run
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] < (3, 11) and 'Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12' % sys.version_info[:2])"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r requirements.txt
	touch $@

clean:
	rm -rf .venv reports/smoke reports/quick reports/overnight reports/paper
