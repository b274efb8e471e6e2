package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/journal/bus"
)

// busFlags are the settings of the embedded NATS server.
type busFlags struct {
	config, domain, store, listen, leafListen string
	leafRemotes                               []string
	log                                       string
}

func busCommand() *cobra.Command {
	var f busFlags
	cmd := &cobra.Command{
		Use:   "bus (--config FILE | --domain NAME --store DIR)",
		Short: "Run the embedded NATS server of a site",
		Long: `Bus runs a NATS server with JetStream: either as a configuration file of nats-server says, or a small one for a
network that is trusted, without authentication. It prints its addresses once it works, and ends on SIGTERM.

  primary:  farshore bus --domain primary --store /var/lib/farshore/bus --leaf-listen 127.0.0.1:7422
  DR:       farshore bus --domain dr --store /var/lib/farshore/bus --listen 127.0.0.1:4223 --leaf-remote nats-leaf://127.0.0.1:7422`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			o, err := f.options(given("listen") || given("domain") || given("store") || given("leaf-listen") || given("leaf-remote"))
			if err != nil {
				return err
			}
			return runBus(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	s := cmd.Flags()
	s.StringVar(&f.config, "config", "", "configuration `FILE` of nats-server")
	s.StringVar(&f.domain, "domain", "", "JetStream domain")
	s.StringVar(&f.store, "store", "", "`DIR` of the streams")
	s.StringVar(&f.listen, "listen", "127.0.0.1:4222", "`HOST:PORT` for clients; port 0: any free one")
	s.StringVar(&f.leafListen, "leaf-listen", "", "`HOST:PORT` for leafnodes; port 0: any free one; empty: none")
	s.StringArrayVar(&f.leafRemotes, "leaf-remote", nil, "`URL` of the leafnode listener to join; may be repeated")
	s.StringVar(&f.log, "log", "", "log `FILE` of the server; empty: silent")
	return cmd
}

// options checks the flags. shaped tells that one of those was given that --config rules out.
func (f busFlags) options(shaped bool) (bus.Options, error) {
	if f.config != "" {
		if shaped {
			return bus.Options{}, daemon.Usagef("--config stands alone: the file tells everything")
		}
		return bus.Options{ConfigFile: f.config}, nil
	}
	if f.domain == "" || f.store == "" {
		return bus.Options{}, daemon.Usagef("give --config FILE, or --domain NAME and --store DIR")
	}
	o := bus.Options{StoreDir: f.store, Domain: f.domain, LeafRemotes: f.leafRemotes, LogFile: f.log}
	var err error
	if o.Host, o.Port, err = address("--listen", f.listen); err != nil {
		return bus.Options{}, err
	}
	if f.leafListen != "" {
		host, port, err := address("--leaf-listen", f.leafListen)
		if err != nil {
			return bus.Options{}, err
		}
		if host != o.Host {
			return bus.Options{}, daemon.Usagef("--leaf-listen must have the host of --listen (%s); use --config for anything else", o.Host)
		}
		o.LeafPort = port
	}
	return o, nil
}

// address splits HOST:PORT; port 0 becomes -1, NATS's word for any free one.
func address(flag, s string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, daemon.Usagef("%s: %q is not HOST:PORT", flag, s)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 || host == "" {
		return "", 0, daemon.Usagef("%s: %q is not HOST:PORT", flag, s)
	}
	if port == 0 {
		port = -1
	}
	return host, port, nil
}

func runBus(ctx context.Context, o bus.Options, out io.Writer) error {
	server, err := bus.Start(o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "clients %s\n", server.ClientURL())
	if leaf := server.LeafURL(); leaf != "" {
		fmt.Fprintf(out, "leafnodes %s\n", leaf)
	}
	<-ctx.Done()
	server.Shutdown()
	server.Wait()
	return nil
}
