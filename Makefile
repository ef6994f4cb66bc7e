# gotrove's tasks. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The go command is looked for once, by the first target that needs it.
GO = $(eval GO := $(or $(shell scripts/go),$(error no go command)))$(GO)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
PROGRAMS := troved trove-guestagent trovectl
TEST_TIMEOUT := 25m
FUZZ_TIME := 20s

export CGO_ENABLED ?= 0
export GOTOOLCHAIN := local

.PHONY: help build test test-short test-openstack guest-image chaos lint fuzz bench demo demo-stop demo-clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build troved, trove-guestagent and trovectl into bin/
	@scripts/install build
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(PROGRAMS:%=./cmd/%)

test: build ## run every test, installing what they need
	@scripts/install engines test docker
	@scripts/test $(GO) $(TEST_TIMEOUT)

chaos: build ## break everything in turn under 100 instances, on both databases: 30 min, 16 GiB
	@scripts/install engines test
	GOTROVE_CHAOS=full $(GO) test -count=1 -v -timeout 90m ./test/chaos

test-short: ## run the tests that need nothing but Go
	$(GO) test -short ./...

test-openstack: build ## a real OpenStack on this machine, our services, every call on it: 8 GiB, root
	@scripts/install engines guest-image
	test/openstack/run $(ENGINES)

guest-image: build ## the image of a cloud's servers: bin/gotrove-guest.qcow2, root
	@scripts/install guest-image
	packaging/guest-image/build

lint: ## gofmt, vet and staticcheck (golangci-lint too where it is installed)
	@scripts/lint $(GO)

fuzz: ## fuzz each codec for $(FUZZ_TIME)
	@scripts/fuzz $(GO) $(FUZZ_TIME)

bench: build ## measure the figures: a JSON line each, then a table
	@scripts/install engines test docker
	@[ "$$(id -u)" -ne 0 ] || packaging/images/build stable
	$(GO) run ./bench

demo: ## one MariaDB and one PostgreSQL instance on this machine, ready to use; GOTROVE_RUNTIME=docker: in containers
	@scripts/install build engines
	@$(MAKE) --no-print-directory build >/dev/null
	@scripts/demo start

demo-stop: ## stop the demo; its data stay
	@scripts/demo stop

demo-clean: ## stop the demo and remove it with all its data
	@scripts/demo clean
