// Package cluster is how Farshore's processes find their Kubernetes API server: by --kubeconfig and --context, else as a Pod
// does. A kubeconfig that nobody named, in $KUBECONFIG or a home directory, is never used: it may be that of another site.
package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/farshore/farshore/cmd/internal/daemon"
)

// ErrNone means that no API server was named and the process doesn't run in a Pod.
var ErrNone = errors.New("no Kubernetes API server: name a kubeconfig with --kubeconfig, or run in a Pod with a service account")

// Flags tell which API server is meant.
type Flags struct {
	Kubeconfig string // path; "": that of the Pod
	Context    string // of the kubeconfig; "": its current one
}

// Register adds --kubeconfig and --context; whose completes the descriptions, as in "the DR site's".
func (f *Flags) Register(set *pflag.FlagSet, whose string) {
	set.StringVar(&f.Kubeconfig, "kubeconfig", "", "kubeconfig `FILE` of "+whose+" API server (default: the Pod's service account)")
	set.StringVar(&f.Context, "context", "", "`NAME` of the context in the kubeconfig (default: its current one)")
}

// Complete completes --context with the names that the kubeconfig has.
func (f *Flags) Complete(cmd *cobra.Command) {
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		config, err := clientcmd.LoadFromFile(f.Kubeconfig)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.Sorted(maps.Keys(config.Contexts)), cobra.ShellCompDirectiveNoFileComp
	})
}

// Config returns how the API server is reached; it doesn't reach it. What can't be used is a *daemon.UsageError; ErrNone
// is wrapped where there is no API server at all.
func (f *Flags) Config() (*rest.Config, error) {
	if f.Kubeconfig == "" {
		if f.Context != "" {
			return nil, daemon.Usagef("--context needs --kubeconfig: there are no contexts in a Pod")
		}
		config, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, ErrNone
		}
		if err != nil {
			return nil, fmt.Errorf("find the Pod's API server: %w", err)
		}
		return silent(config), nil
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: f.Kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: f.Context}).ClientConfig()
	if err != nil {
		return nil, &daemon.UsageError{Err: fmt.Errorf("--kubeconfig %s: %w", f.Kubeconfig, err)}
	}
	return silent(config), nil
}

// Need is Config for what can't do without an API server.
func (f *Flags) Need() (*rest.Config, error) {
	config, err := f.Config()
	if errors.Is(err, ErrNone) {
		return nil, &daemon.UsageError{Err: err}
	}
	return config, err
}

// client-go's own log tells again, in another form, of errors that are returned. It can't be changed while clients work.
func init() { klog.SetLogger(logr.Discard()) }

// silent keeps the API server's warnings out of the output: they are about kinds that are looked at because they are there.
func silent(config *rest.Config) *rest.Config {
	config.WarningHandler = rest.NoWarnings{}
	return config
}
