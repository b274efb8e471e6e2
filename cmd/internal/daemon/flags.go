package daemon

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flags are the settings that every daemon has.
type flags struct {
	group     string
	metrics   string
	logLevel  string
	logFormat string
	busStore  string
	busListen string
	busLeaf   string
}

func (f *flags) register(set *pflag.FlagSet, hosts Site) {
	set.StringVar(&f.group, "group", "", "the ProtectionGroup document `FILE`")
	set.StringVar(&f.metrics, "metrics", "", "serve /metrics and /healthz at `HOST:PORT`; empty: don't")
	LogFlags(set, &f.logLevel, &f.logFormat)
	switch hosts {
	case Primary:
		set.StringVar(&f.busStore, "bus-store", "", "`DIR` of the built-in NATS server's streams (default: below the state directory)")
		set.StringVar(&f.busListen, "bus-listen", primaryAddress, "`HOST:PORT` of the built-in NATS server")
		set.StringVar(&f.busLeaf, "bus-leaf", leafAddress, "`HOST:PORT` at which the built-in NATS server takes the DR site's leafnode")
	case DR:
		set.StringVar(&f.busStore, "bus-store", "", "`DIR` of the built-in NATS server's streams (default: below the state directory)")
		set.StringVar(&f.busListen, "bus-listen", drAddress, "`HOST:PORT` of the built-in NATS server")
		set.StringVar(&f.busLeaf, "bus-leaf", leafAddress, "`HOST:PORT` of the primary's leafnode listener, for the built-in NATS server")
	}
}

// LogFlags adds --log-level and --log-format, as NewLogger takes them.
func LogFlags(set *pflag.FlagSet, level, format *string) {
	set.StringVar(level, "log-level", "info", "least `LEVEL` logged: debug, info, warn or error")
	set.StringVar(format, "log-format", "text", "`FORMAT` of the log: text or json")
}

// NewLogger returns a logger that writes to w. A level or format that it doesn't know is a *UsageError.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, Usagef("--log-level: %q is not one of debug, info, warn and error", level)
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, Usagef("--log-format: %q is not one of text and json", format)
}

// variable is the name of the environment variable that sets a flag.
func variable(flag string) string {
	return "FARSHORE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyEnvironment sets the flags that the command line left alone and the environment gives.
func applyEnvironment(set *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var problems []error
	set.VisitAll(func(f *pflag.Flag) {
		value, ok := lookup(variable(f.Name))
		if !ok || f.Changed || notSettable(f.Name) {
			return
		}
		if err := set.Set(f.Name, value); err != nil {
			problems = append(problems, Usagef("%s=%q: %w", variable(f.Name), value, err))
		}
	})
	return errors.Join(problems...)
}

func describeEnvironment(cmd *cobra.Command) {
	describe := func(f *pflag.Flag) {
		if !notSettable(f.Name) {
			f.Usage += " (env " + variable(f.Name) + ")"
		}
	}
	cmd.PersistentFlags().VisitAll(describe)
	cmd.LocalNonPersistentFlags().VisitAll(describe)
	for _, sub := range cmd.Commands() {
		describeEnvironment(sub)
	}
}

func notSettable(flag string) bool { return flag == "help" || flag == "version" }

// Version is the version of the build: the module's, or the commit's.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	if version == "" || version == "(devel)" {
		version = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				version += "-" + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return version
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
