# The two commands of the README are `make demo` and `make test`. As root: `sudo make demo`.

BENCH = bench bench.first bench.incremental bench.capture bench.workspace bench.pieces bench.s3

.PHONY: help install demo test soak vm lint bench proto clean
help:                                ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install:                             ## install CRIU, the init and criu-agent (in .venv)
	@scripts/install

demo: install                        ## install what is needed and watch a program be suspended and resumed
	@scripts/demo

test: .dev                           ## install what is needed and run the tests, all but the slow ones
	.venv/bin/pytest

soak: .dev                           ## the slow tests too, and hundreds of kills; TIMES=50 for fewer
	TIMES=$(or $(TIMES),200) .venv/bin/pytest -m "" tests/root/test_killed.py tests/workloads
	WRITERS=$(or $(WRITERS),50) .venv/bin/pytest tests/root/test_random_files.py

vm: .dev                             ## a virtual machine with another kernel, where root lacks no capability; minutes
	images/vm/build
	.venv/bin/pytest -m "" tests/vm

lint: .dev                           ## ruff, ruff format, mypy --strict, shellcheck (the tests run them too)
	.venv/bin/pytest -q tests/unit/test_lint.py

bench: .dev                          ## measure against plain criu, tar, restic and borg; BENCH="bench.first" for one part
	@scripts/install-bench-needs
	@for part in $(BENCH); do echo "== $$part"; .venv/bin/python -m $$part || exit 1; done

proto: .dev                          ## make the protobuf module again from messages.proto
	.venv/bin/pip --quiet install grpcio-tools
	cd criu_agent/criu && ../../.venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. messages.proto

clean:                               ## remove what was made here; CRIU under its prefix stays
	rm -rf .venv build ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: .dev
.dev:
	@scripts/install --dev
