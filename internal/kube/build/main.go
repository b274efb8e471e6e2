// Command build builds the Kubernetes servers that tests and the demo run into the user's cache, and tells how far it is. Where they are
// there already it only says where.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/farshore/farshore/internal/kube"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	began := time.Now()
	if !kube.Built() {
		fmt.Printf("building Kubernetes %s, once: about 5 minutes on 2 cores\n", kube.Version)
	}
	var step string
	var told time.Time
	dir, err := kube.Binaries(ctx, func(p kube.Progress) {
		if p.Step != step || time.Since(told) > 10*time.Second {
			step, told = p.Step, time.Now()
			fmt.Println(p)
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	fmt.Printf("Kubernetes %s is in %s (%s)\n", kube.Version, dir, time.Since(began).Round(time.Second))
}
