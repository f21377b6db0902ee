# Needs Python >= 3.11 with venv, make and a package index. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install quickstart study test lint types clean

help:  ## Lists the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(INSTALLED)  ## Creates .venv with the pinned dependencies; does nothing when they are there.

# mmcv asks for the OpenCV build with a window system, albumentations for the one without; both write the same files.
# Cluster nodes lack libGL, so exactly the headless one stays.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[test]'
	$(BIN)/pip uninstall -q -y opencv-python opencv-python-headless
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -c constraints.txt opencv-python-headless
	touch $@

data/shapes/shapes.json: | $(INSTALLED)
	$(BIN)/python -m datamodules.shapes --root data/shapes --seed 0

quickstart: $(INSTALLED) data/shapes/shapes.json  ## Trains a detector and a segmentor on the sample data set.
	$(BIN)/python -m tasks.detect fit --config configs/detect/quickstart.yaml
	$(BIN)/python -m tasks.segment fit --config configs/segment/quickstart.yaml
	$(BIN)/python -m tasks.compare runs

# Hours: 49 trainings, which go on where they were when it is called again; then each network is measured, alone.
study: $(INSTALLED) data/shapes/shapes.json  ## Runs the study of docs/study and writes its report.
	$(BIN)/python -m tasks.sweep configs/sweeps/shapes_detect.yaml
	$(BIN)/python -m tasks.sweep configs/sweeps/shapes_segment.yaml
	$(BIN)/python -m tasks.profile --runs runs/detect/shapes_detect runs/segment/shapes_segment
	$(BIN)/python -m tasks.compare runs/detect/shapes_detect runs/segment/shapes_segment \
		--output docs/study --about docs/study/about.txt

# One process per core, each with one thread: threads that compete for a core are slower than none.
test: $(INSTALLED)  ## Runs the tests on all cores, at most eight.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(INSTALLED)  ## Checks style, the direction of imports, and that nothing stands twice.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pylint attention backbones benchmarks configs datamodules tasks

types: $(INSTALLED)  ## Checks types.
	$(BIN)/mypy

clean:  ## Removes the environment, the sample data set and caches; runs stay.
	rm -rf .venv data/shapes .pytest_cache .ruff_cache .mypy_cache *.egg-info
