// Package daemon is what Farshore's processes share: flags and environment, the group document,
// logging, telemetry, signals, connections and exit codes.
//
// A setting is taken from its flag, else from its environment variable (FARSHORE_ and the flag's
// name in capitals), else from the document, else from its default. The first SIGINT or SIGTERM
// cancels the process's context and lets it end in order; a second one ends it at once.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// The exit codes of every process.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2 // bad usage or configuration: starting again changes nothing
	ExitFenced  = 3 // another process took over: this one must not be started again by itself
)

// UsageError is a mistake on the command line, in the environment or in a configuration file.
type UsageError struct{ Err error }

// Error implements error.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns what the mistake is.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef returns a *UsageError.
func Usagef(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// ExitCode tells the exit code that err calls for.
func ExitCode(err error) int {
	var usage *UsageError
	var problems *group.ProblemsError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage), errors.As(err, &problems):
		return ExitUsage
	case errors.Is(err, journal.ErrFenced):
		return ExitFenced
	}
	return ExitFailure
}

// Site names a shore.
type Site int

// The sites. A process that hosts none connects to servers that others run.
const (
	NoSite Site = iota
	Primary
	DR
)

// Spec describes one daemon.
type Spec struct {
	Use   string // name of the program
	Short string // what it does, in a line
	Long  string // what it does, in a paragraph

	// Hosts is the site whose embedded server the daemon runs where the document gives no
	// URL for it.
	Hosts Site

	// Flags adds the daemon's own flags. Each can be set by environment, too.
	Flags func(*pflag.FlagSet)

	// Instance names the process among its kind, for logs, metrics and connections. Nil: the
	// host's name.
	Instance func() string

	// Run is the daemon. It logs "ready" once it works and returns nil on cancellation. Its
	// Env's connections are closed behind it.
	Run func(ctx context.Context, env *Env) error
}

// Command builds the command of a daemon, with --group, --metrics, --log-level, --log-format and
// the completion subcommand.
func Command(s Spec) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:     s.Use,
		Short:   s.Short,
		Long:    s.Long,
		Version: Version(),
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), s, f, cmd.ErrOrStderr())
		},
	}
	f.register(cmd.Flags(), s.Hosts)
	if s.Flags != nil {
		s.Flags(cmd.Flags())
	}
	return cmd
}

// Main runs cmd with the process's arguments and ends the process with ExitCode. An error is
// written to standard error in one piece. It works for any command, not only for those that
// Command built: Prepare is called on it.
func Main(cmd *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	Prepare(cmd)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
	}
	os.Exit(ExitCode(err))
}

// Prepare makes cmd and its subcommands behave as every command of Farshore does: flags can be
// set by environment, mistakes in usage are *UsageError, errors are returned and not printed, and
// completion is offered for bash and zsh.
func Prepare(cmd *cobra.Command) {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usagef("%w\ntry %q", err, cmd.CommandPath()+" --help")
	})
	cmd.AddCommand(completion(cmd))
	describeEnvironment(cmd)
	strictUsage(cmd)
	before := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if err := applyEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

// strictUsage makes wrong arguments and unknown subcommands *UsageError, for cmd and those below it.
func strictUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil || ExitCode(err) == ExitUsage {
				return err
			}
			return Usagef("%w\ntry %q", err, cmd.CommandPath()+" --help")
		}
	}
	if !cmd.Runnable() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usagef("unknown command %q\ntry %q", args[0], cmd.CommandPath()+" --help")
			}
			return cmd.Help()
		}
	}
	for _, sub := range cmd.Commands() {
		strictUsage(sub)
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("unexpected argument %q\ntry %q", args[0], cmd.CommandPath()+" --help")
	}
	return nil
}

func completion(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh",
		Short: "Print a completion script",
		Long: fmt.Sprintf(`Print a script that completes %[1]s's flags and subcommands.

  bash:  source <(%[1]s completion bash)
  zsh:   %[1]s completion zsh > "${fpath[1]}/_%[1]s"`, root.Name()),
		ValidArgs: []string{"bash", "zsh"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "bash" {
				return root.GenBashCompletionV2(cmd.OutOrStdout(), true)
			}
			if len(args) == 1 && args[0] == "zsh" {
				return root.GenZshCompletion(cmd.OutOrStdout())
			}
			return Usagef("name one shell: bash or zsh")
		},
	}
}
