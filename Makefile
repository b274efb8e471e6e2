# Farshore. `make help` lists what can be made.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
DEMO     ?= --duration 60s
KUBE     ?=
BENCH    ?= .
BENCHTIME ?= 1
FUZZTIME ?= 1m
SOAK     ?= 1000

.DEFAULT_GOAL := help
.PHONY: help build test test-fast soak demo bench lint fmt fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the programs into bin/
	$(GO) build -o bin/ ./cmd/capturer ./cmd/snapshotter ./cmd/applier ./cmd/farshore

test: ## run everything: checks, unit and integration tests, demo, mutation check (up to an hour; builds Kubernetes the first time)
	GO="$(GO)" scripts/test.sh

test-fast: ## run the quick part of it: formatting, vet and unit tests without the race detector (2 minutes)
	GO="$(GO)" scripts/test.sh fast

soak: ## kill and stop processes and NATS servers under load, for hours (SOAK=1000 rounds); figures in out/soak.json
	GO="$(GO)" FARSHORE_SOAK_ROUNDS="$(SOAK)" scripts/test.sh soak

demo: build ## lose a primary site under load, recover two SQLite databases and Kubernetes objects (DEMO="--duration 15s --seed 1", KUBE=off: no objects)
	bin/farshore demo $(if $(KUBE),--kube=$(KUBE)) $(DEMO)

bench: ## measure against targets and peers into docs/benchmarks.* (BENCH=regexp of cases, BENCHTIME=factor; 20 minutes)
	$(GO) run ./integration/bench -run '$(BENCH)' -scale $(BENCHTIME)
	cd integration/bench/plot && $(GO) run . ../../../docs

lint: ## run gofmt, vet, staticcheck and the repository's own rules
	GO="$(GO)" scripts/test.sh lint

fmt: ## format the code
	gofmt -w $$(git ls-files --cached --others --exclude-standard '*.go')

fuzz: ## fuzz every decoder (FUZZTIME=1m each)
	GO="$(GO)" FUZZTIME="$(FUZZTIME)" scripts/test.sh fuzz

clean: ## remove what was built
	rm -rf bin out
