package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

const document = `
apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  volumes:
  - {name: orders, uid: u1, capturer: a, path: /v/orders, listen: "unix:/run/orders"}
`

func writeDocument(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "group.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// execute runs a daemon's command as Main does, without ending the process.
func execute(ctx context.Context, s Spec, args ...string) (stdout, stderr string, err error) {
	cmd := Command(s)
	Prepare(cmd)
	var out, errOut bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	err = cmd.ExecuteContext(ctx)
	return out.String(), errOut.String(), err
}

func nothing(context.Context, *Env) error { return nil }

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("broken"), 1},
		{Usagef("wrong"), 2},
		{fmt.Errorf("load: %w", &UsageError{errors.New("wrong")}), 2},
		{fmt.Errorf("load: %w", &group.ProblemsError{}), 2},
		{fmt.Errorf("write: %w", journal.ErrFenced), 3},
		{errors.Join(errors.New("broken"), journal.ErrFenced), 3},
	} {
		if got := ExitCode(tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestUsageMistakes(t *testing.T) {
	good := writeDocument(t, document)
	bad := writeDocument(t, strings.ReplaceAll(document, "uid: u1", "uid: u1, size: huge, colour: red"))
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"--group FILE", "FARSHORE_GROUP"}},
		{[]string{"--group", good, "--nonsense"}, []string{"unknown flag: --nonsense", "capturer --help"}},
		{[]string{"--group", good, "more"}, []string{`unexpected argument "more"`}},
		{[]string{"--group", good, "--log-level", "loud"}, []string{`--log-level: "loud"`}},
		{[]string{"--group", good, "--log-format", "xml"}, []string{`--log-format: "xml"`}},
		{[]string{"--group", good + ".none"}, []string{"no such file"}},
		{[]string{"--group", bad}, []string{"2 problems:", "spec.volumes[0].colour: unknown field", "spec.volumes[0].size: "}},
		{[]string{"completion", "fish"}, []string{"bash or zsh"}},
	} {
		_, _, err := execute(t.Context(), Spec{Use: "capturer", Run: nothing}, tt.args...)
		if ExitCode(err) != ExitUsage {
			t.Errorf("%v: exit code %d for %v", tt.args, ExitCode(err), err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: no %q in %q", tt.args, want, err)
			}
		}
	}
}

// A setting comes from the flag, else from the environment, else from the default.
func TestPrecedence(t *testing.T) {
	file := writeDocument(t, document)
	t.Setenv("FARSHORE_GROUP", file)
	t.Setenv("FARSHORE_RETRY_LIMIT", "5")
	var name string
	var limit int
	spec := Spec{
		Use: "capturer",
		Flags: func(set *pflag.FlagSet) {
			set.StringVar(&name, "name", "default", "the `NAME`")
			set.IntVar(&limit, "retry-limit", 1, "the limit")
		},
		Instance: func() string { return name },
		Run: func(_ context.Context, env *Env) error {
			if env.Group.Metadata.Name != "shop" || env.Instance != name {
				t.Errorf("got %q, %q", env.Group.Metadata.Name, env.Instance)
			}
			return nil
		},
	}
	for _, tt := range []struct {
		args  []string
		name  string
		limit int
	}{
		{nil, "default", 5},
		{[]string{"--name", "a", "--retry-limit", "7"}, "a", 7},
	} {
		if _, _, err := execute(t.Context(), spec, tt.args...); err != nil {
			t.Fatal(err)
		}
		if name != tt.name || limit != tt.limit {
			t.Errorf("%v: got %q, %d; want %q, %d", tt.args, name, limit, tt.name, tt.limit)
		}
	}
	t.Setenv("FARSHORE_RETRY_LIMIT", "many")
	_, _, err := execute(t.Context(), spec)
	if ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), "FARSHORE_RETRY_LIMIT") {
		t.Errorf("a bad variable gave %v", err)
	}
}

func TestHelpNamesVariables(t *testing.T) {
	out, _, err := execute(t.Context(), Spec{Use: "applier", Long: "Rebuilds.", Hosts: DR, Run: nothing}, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Rebuilds.", "--group FILE", "(env FARSHORE_GROUP)", "(env FARSHORE_BUS_LEAF)", "completion"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "FARSHORE_HELP") {
		t.Errorf("help has a variable:\n%s", out)
	}
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_snapshotter", "zsh": "#compdef snapshotter"} {
		out, _, err := execute(t.Context(), Spec{Use: "snapshotter", Run: nothing}, "completion", shell)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: no %q, %v", shell, want, err)
		}
	}
}

// Prepare serves commands with subcommands, too.
func TestPrepareReachesSubcommands(t *testing.T) {
	t.Setenv("FARSHORE_LABEL", "x")
	var label string
	root := &cobra.Command{Use: "farshore"}
	sub := &cobra.Command{Use: "mark", RunE: func(*cobra.Command, []string) error { return nil }}
	sub.Flags().StringVar(&label, "label", "", "the label")
	sub.Args = cobra.NoArgs
	root.AddCommand(sub)
	Prepare(root)
	root.SetArgs([]string{"mark"})
	if err := root.ExecuteContext(t.Context()); err != nil || label != "x" {
		t.Errorf("got %q, %v", label, err)
	}
	for _, args := range [][]string{{"mark", "--wrong"}, {"mark", "more"}, {"nonsense"}} {
		root.SetArgs(args)
		if err := root.ExecuteContext(t.Context()); ExitCode(err) != ExitUsage {
			t.Errorf("%v: got %v", args, err)
		}
	}
}

func TestCancellationIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, log, err := execute(ctx, Spec{Use: "applier", Run: func(ctx context.Context, env *Env) error {
		env.Log.Info("ready")
		cancel()
		<-ctx.Done()
		return fmt.Errorf("read stream: %w", ctx.Err())
	}}, "--group", writeDocument(t, document), "--log-format", "json", "--metrics", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{`"msg":"ready"`, `"program":"applier"`, `"group":"shop"`, `"msg":"stopped"`} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
}

// A failure that is not the request to end stays one, even when it comes at the same time.
func TestFailureWhileEnding(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := execute(ctx, Spec{Use: "applier", Run: func(context.Context, *Env) error {
		cancel()
		return errors.Join(context.Canceled, journal.ErrFenced)
	}}, "--group", writeDocument(t, document))
	if ExitCode(err) != ExitFenced {
		t.Errorf("got %v", err)
	}
}

// Where the document gives no URL the built-in servers make a pair of sites: what one site's
// process does is seen from the other's.
func TestBuiltInServers(t *testing.T) {
	leaf := freeAddress(t)
	file := writeDocument(t, document)
	_, log, err := execute(t.Context(), Spec{Use: "snapshotter", Hosts: Primary, Run: func(ctx context.Context, env *Env) error {
		primary, err := env.Primary(ctx)
		if err != nil {
			return err
		}
		if again, err := env.Primary(ctx); err != nil || again != primary {
			t.Errorf("a second connection was made: %v", err)
		}
		id := journal.StreamID{Group: "shop", Part: "orders", Generation: 1}
		if err := primary.EnsureStream(ctx, id, journal.StreamOptions{UID: "u1"}); err != nil {
			return err
		}
		_, log, err := execute(ctx, Spec{Use: "applier", Hosts: DR, Run: func(ctx context.Context, env *Env) error {
			dr, err := env.DR(ctx)
			if err != nil {
				return err
			}
			for {
				streams, err := dr.PeerStreams(ctx, "shop")
				if len(streams) == 1 && streams[0].ID == id {
					return nil
				}
				if ctx.Err() != nil {
					return fmt.Errorf("wait for the leafnode: %w", err)
				}
			}
		}}, "--group", file, "--bus-store", t.TempDir(), "--bus-listen", "127.0.0.1:0", "--bus-leaf", leaf)
		if err != nil {
			t.Log(log)
		}
		return err
	}}, "--group", file, "--bus-store", t.TempDir(), "--bus-listen", "127.0.0.1:0", "--bus-leaf", leaf)
	if err != nil {
		t.Errorf("%v\n%s", err, log)
	}
	if !strings.Contains(log, "embedded server started") {
		t.Errorf("no server was started:\n%s", log)
	}
}

func TestBadBusAddress(t *testing.T) {
	for _, address := range []string{"4222", ":4222", "localhost:nats"} {
		_, _, err := execute(t.Context(), Spec{Use: "snapshotter", Hosts: Primary, Run: func(ctx context.Context, env *Env) error {
			_, err := env.Primary(ctx)
			return err
		}}, "--group", writeDocument(t, document), "--bus-store", t.TempDir(), "--bus-listen", address)
		if ExitCode(err) != ExitUsage {
			t.Errorf("%s: got %v", address, err)
		}
	}
}

// freeAddress returns a loopback address that was free a moment ago: both processes must be told it
// before either is started.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
