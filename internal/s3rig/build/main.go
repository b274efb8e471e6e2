// Command build builds the programs of others that archives are tested with into the user's cache: object stores, and restic. Where they are
// there already it only says where.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/farshore/farshore/internal/s3rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	for _, name := range []string{s3rig.VersityGW, s3rig.Restic, s3rig.MinIO} {
		fmt.Printf("%s: ", name)
		path, err := s3rig.Tool(ctx, name)
		if err != nil {
			fmt.Println("failed")
			fmt.Fprintln(os.Stderr, "build:", err)
			os.Exit(1)
		}
		fmt.Println(path)
	}
}
