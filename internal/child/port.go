package child

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// given are the ports that this process has got.
var given sync.Map

// FreePort returns a port that nobody listens on, below those that the kernel gives to outgoing connections: one of them
// could take it while the server is down.
func FreePort() (string, error) {
	const first, last = 12000, 32000
	for range 1000 {
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close() // nobody was connected
		if _, taken := given.LoadOrStore(port, true); !taken {
			return fmt.Sprint(port), nil
		}
	}
	return "", errors.New("no port is free")
}
