#!/usr/bin/env bash
# Runs the tests: everything (no argument), or one of: fast, lint, fuzz, soak.
#
# Every section runs even when one before it failed, so that one run tells all; the summary at
# the end names what failed and what was not run, and the exit code is 1 when something failed.
# Complete output of every section is kept in out/test/.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
FUZZTIME=${FUZZTIME:-5s}
LOGS=out/test
TOOLS=${FARSHORE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/farshore/tools}
STATICCHECK=honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK=golang.org/x/vuln/cmd/govulncheck@v1.9.0

# Programs that the NBD server, the images and whole databases are checked with, and their Debian packages.
# Where one is missing, the tests that need it skip and say so.
FOREIGN=(nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdfuse:libnbd-bin nbdkit:nbdkit qemu-io:qemu-utils qemu-img:qemu-utils fio:fio
	mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs losetup:util-linux fusermount3:fuse3 /usr/lib/postgresql/15/bin/postgres:postgresql-15)

mkdir -p "$LOGS"
summary=()
not_run=()
failed=0

# section NAME COMMAND... runs the command, shows its output through its filter, keeps all of it,
# and records how it ended. A command that returns 77 was not run, for the reason in $reason_file.
section() {
	local name=$1 log status started=$SECONDS
	shift
	log=$LOGS/${name// /-}.log
	reason_file=$LOGS/${name// /-}.reason
	rm -f "$reason_file"
	printf '\n=== %s\n' "$name"
	"$@" 2>&1 | tee "$log" | "${filter:-cat}"
	status=${PIPESTATUS[0]}
	case $status in
	0) summary+=("$(printf 'ok       %-24s %4d s' "$name" $((SECONDS - started)))") ;;
	77)
		summary+=("$(printf 'NOT RUN  %-24s' "$name")")
		not_run+=("$name: $(cat "$reason_file" 2>/dev/null)")
		;;
	*)
		summary+=("$(printf 'FAILED   %-24s %4d s  (%s)' "$name" $((SECONDS - started)) "$log")")
		failed=1
		;;
	esac
	return "$status"
}

# go_test NAME ARGUMENTS... is a section that runs go test. It is run with -v so that no test
# skips in silence; shown are the results of packages, and of tests that failed or skipped.
go_test() {
	local name=$1 log=$LOGS/${1// /-}.log
	shift
	if ! filter=results section "$name" "$GO" test -v "$@"; then
		printf '\n--- %s: output of the tests, without what passed\n' "$name"
		grep -vE '^[[:space:]]*(=== (RUN|PAUSE|CONT|NAME)|--- PASS)|^PASS$' "$log" | tail -n 400
	fi
	while IFS= read -r line; do
		not_run+=("$line")
	done < <(skipped <"$log")
}

results() { grep --line-buffered -E '^(ok|FAIL|PASS|panic:|fatal error:|WARNING: DATA RACE|#|[^[:space:]]+\.go:[0-9]+:[0-9]+:)|^[[:space:]]*--- (FAIL|SKIP)|no test files' | grep --line-buffered -v 'no test files' || true; }

# skipped lists the tests that skipped, each with its reason: the line before.
skipped() {
	awk '/--- SKIP: / { why = before; sub(/^[[:space:]]*[^[:space:]]+:[0-9]+: /, "", why); print $3 ": " why } { before = $0 }'
}

not_this() { # not_this REASON: ends a section's command as not run
	echo "$1" | tee "$reason_file"
	return 77
}

# tool NAME MODULE@VERSION prints the path of the tool, built once into the cache.
tool() {
	local dir=$TOOLS/${2##*@}-$("$GO" env GOVERSION)
	[ -x "$dir/$1" ] || GOBIN=$dir "$GO" install "$2" >&2 || return 1
	echo "$dir/$1"
}

go_files() { find . -name '*.go' -not -path './bin/*' -not -path './out/*'; }

# kubernetes builds the Kubernetes servers into the cache before tests wait for them; about 5 minutes, once.
kubernetes() { "$GO" run ./internal/kube/build; }

# archive_tools builds MinIO, versitygw and restic into the cache before tests wait for them; about 5 minutes, once.
archive_tools() { "$GO" run ./internal/s3rig/build; }

foreign_tools() {
	local missing=() packages=() entry
	for entry in "${FOREIGN[@]}"; do
		command -v "${entry%%:*}" >/dev/null || { missing+=("${entry%%:*}") && packages+=("${entry##*:}"); }
	done
	command -v cc >/dev/null || command -v gcc >/dev/null || { missing+=(cc) && packages+=(gcc libc6-dev); }
	if [ ${#missing[@]} -eq 0 ]; then
		echo "all there"
		return 0
	fi
	mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		not_this "missing: ${missing[*]}; the tests that need them are not run. On Debian: apt-get install ${packages[*]}"
		return
	fi
	echo "installing ${packages[*]}"
	apt-get -qq update &&
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null &&
		return 0
	not_this "missing: ${missing[*]}, and apt-get could not install them; the tests that need them are not run"
}

formatting() {
	local bad
	bad=$(go_files | xargs gofmt -l) || return 1
	[ -z "$bad" ] && return 0
	echo "not formatted (make fmt):"
	echo "$bad"
	return 1
}

vet() { "$GO" vet ./... && "$GO" vet -tags mutation ./...; }

static_analysis() {
	local staticcheck
	staticcheck=$(tool staticcheck "$STATICCHECK") || return 1
	"$staticcheck" ./... && "$staticcheck" -tags mutation ./...
}

vulnerabilities() {
	local govulncheck out status
	govulncheck=$(tool govulncheck "$GOVULNCHECK") || return 1
	out=$("$govulncheck" ./... 2>&1)
	status=$?
	echo "$out"
	# 3 means that vulnerabilities were found; anything else is a failure of the check itself.
	if [ $status -ne 0 ] && [ $status -ne 3 ] && grep -q 'fetching vulnerabilities\|vuln\.go\.dev' <<<"$out"; then
		not_this "the vulnerability database can't be reached"
		return
	fi
	return $status
}

tidy() { "$GO" mod tidy -diff; }

# unit_packages are all packages but the ones that start processes.
unit_packages() { "$GO" list ./... | grep -v '/integration\(/\|$\)'; }

# integration_packages are the packages that start processes: each is a section of its own.
integration_packages() { "$GO" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./integration/...; }

race() { # prints -race where the detector works
	if [ "$("$GO" env CGO_ENABLED)" = 1 ] && command -v "$("$GO" env CC)" >/dev/null; then
		echo -race
	fi
}

fuzzing() {
	local package name status=0
	while read -r package; do
		for name in $("$GO" test -list '^Fuzz' "$package" | grep '^Fuzz'); do
			echo "$package $name"
			"$GO" test -run '^$' -fuzz "^$name\$" -fuzztime "$FUZZTIME" "$package" || status=1
		done
	done < <(go_files | grep '_test\.go$' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u)
	return $status
}

# mutation: with one write in 500 left out on purpose, or one change of an object in so many, tests must fail; one that passes would not
# see lost data. Every line of scripts/mutation-tests.txt is a package, a test, and maybe the number.
mutation() {
	local package name one_in out status=0
	while read -r package name one_in; do
		out=$(FARSHORE_TEST_TAGS=mutation FARSHORE_DROP_ONE_IN=${one_in:-500} "$GO" test -v -count=1 -timeout 10m -tags mutation -run "^$name\$" "$package" 2>&1)
		if grep -q -- "^--- FAIL: $name " <<<"$out"; then
			echo "ok: $name fails, as it must: $(grep -E '^[[:space:]]+[^[:space:]]+\.go:[0-9]+: ' <<<"$out" | grep -vi -m1 ': seed' | sed 's/^[[:space:]]*//' | cut -c1-160)"
		elif grep -q -- "^--- SKIP: $name " <<<"$out"; then
			echo "not run: $name skips: $(grep -E '^[[:space:]]+[^[:space:]]+\.go:[0-9]+: ' <<<"$out" | tail -n 1 | sed 's/^[[:space:]]*//')"
		else
			printf 'NOT FOUND: %s %s does not see that writes are lost:\n%s\n' "$package" "$name" "$out"
			status=1
		fi
	done < <(grep -v '^\(#\|$\)' scripts/mutation-tests.txt)
	return $status
}

build() { "$GO" build -o bin/ ./cmd/capturer ./cmd/snapshotter ./cmd/applier ./cmd/farshore; }

demo() { bin/farshore demo --duration 15s --seed 1; }

lint() {
	section "gofmt" formatting
	section "vet" vet
	section "staticcheck" static_analysis
}

finish() {
	printf '\n=== summary\n'
	printf '%s\n' "${summary[@]}"
	if [ ${#not_run[@]} -gt 0 ]; then
		printf '\nnot run:\n'
		printf '  %s\n' "${not_run[@]}"
	fi
	printf '\n%d s, ' "$SECONDS"
	if [ $failed -ne 0 ]; then
		echo "FAILED"
	else
		echo "all passed"
	fi
	exit $failed
}

case ${1:-all} in
fast)
	section "gofmt" formatting
	section "vet" vet
	go_test "unit tests" -short -timeout 5m $(unit_packages)
	;;
lint)
	lint
	go_test "repository rules" -count=1 ./internal/lint
	;;
fuzz)
	section "fuzzing" fuzzing
	;;
soak)
	filter=cat section "soak" "$GO" test -v -count=1 -timeout 0 -run '^TestRounds$' ./integration/faults
	;;
all)
	section "tools of others" foreign_tools
	lint
	section "vulnerabilities" vulnerabilities
	section "go mod tidy" tidy
	section "build" build
	section "kubernetes" kubernetes
	section "object stores and restic" archive_tools
	race=$(race)
	[ -n "$race" ] || not_run+=("race detector: no C compiler")
	go_test "unit tests" ${race:+"$race"} -timeout 20m $(unit_packages)
	section "fuzzing" fuzzing
	for package in $(integration_packages); do
		go_test "integration ${package##*/integration/}" -count=1 -timeout 30m "$package"
	done
	section "demo" demo
	section "mutation check" mutation
	;;
*)
	echo "usage: scripts/test.sh [fast|lint|fuzz|soak]" >&2
	exit 2
	;;
esac
finish
