# make demo        build everything and show it, without the Internet, on http://localhost:8480
# make test        every test there is: Go, and the dashboard in a browser
# make growth      how the detector's memory and time grow: detect/growth.svg and detect/GROWTH.md
# make faults      what comes of servers, processes, disks and connections that fail all the time: FAULTS=30m SEED=7
# make scorecard   how right the detector is: what it finds of events whose truth is known, what it says of what was none
#
# Needs Go and Node.js. The browser tests use Chromium, the race detector a C compiler.

GO   ?= go
NPM  ?= npm
WEB  := api/web
# staticcheck is run by version rather than kept in go.mod, where its needs would become ours.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# For each fuzz target.
FUZZTIME ?= 10s
# For how long make faults breaks things, and what it draws from: 0 is another seed each time, which is printed.
FAULTS ?= 30m
SEED ?= 0
VERSION ?=

export CGO_ENABLED = 0

.PHONY: demo test build web lint race fuzz bench scorecard growth faults clean

demo: build
	./routevigil serve --demo

build: web
	$(GO) build -trimpath -ldflags '-s -w $(if $(VERSION),-X main.version=$(VERSION))' -o routevigil ./cmd/routevigil

# The dashboard is embedded into the binary, so it is built first.
web: $(WEB)/node_modules/.package-lock.json
	cd $(WEB) && $(NPM) run build

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	cd $(WEB) && $(NPM) ci
	touch $@

test: build
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...
	cd $(WEB) && $(NPM) run check
	cd $(WEB) && $(NPM) test

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

race:
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

# Every function FuzzX of every package, one after the other. Minimizing is limited: by default the fuzzer may spend
# a minute on making one interesting input smaller, in which it tries nothing new. Go's fuzzer now and then reports
# its own end of time as a failure (golang/go#75804): a target that says that, and found no input, is run again.
fuzz:
	@set -e; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; for dir in $$($(GO) list -f '{{.Dir}}' ./...); do \
		for target in $$(cat $$dir/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do \
			echo "$$target in $$dir"; \
			until $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$dir >"$$log" 2>&1; do \
				grep -qx '    context deadline exceeded' "$$log" && ! grep -q 'Failing input' "$$log" || { cat "$$log"; exit 1; }; \
				echo "ended by golang/go#75804; again"; \
			done; \
			cat "$$log"; \
		done; \
	done

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# A short one is part of make test. Needs what .ci/kafka and .ci/clickhouse need, and root, who may mount small disks.
faults:
	CI=true ROUTEVIGIL_TEST_CLICKHOUSE=own $(GO) test ./cmd/routevigil/service -run '^TestFaults' -v -count 1 -timeout 0 -faults $(FAULTS) -faults.seed $(SEED)

growth:
	$(GO) run ./cmd/growth

# Fails while the detector misses something it is meant to reach. Real data are played where there are any.
scorecard:
	$(GO) run ./cmd/scorecard

clean:
	git clean -fdXq routevigil $(WEB)
