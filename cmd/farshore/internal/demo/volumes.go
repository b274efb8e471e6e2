package demo

import (
	"context"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"github.com/farshore/farshore/cmd/farshore/internal/sqlitevol"
	"github.com/farshore/farshore/pkg/cdc/nbd"
)

// The two volumes, and how each one's database keeps its transactions: both of SQLite's ways.
const (
	ledger     = "ledger"
	settlement = "settlement"
)

var journalMode = map[string]string{ledger: "wal", settlement: "delete"}

// remote is a device behind an NBD client. A client that is closed ends every call.
type remote struct{ *nbd.Client }

// Flush implements sqlitevol.Device.
func (r remote) Flush() error { return r.Client.Flush(context.Background()) }

// database is an open database and what lies under it.
type database struct {
	*sqlite3.Conn
	forget func()
	device interface{ Close() error }
}

func openDatabase(dev sqlitevol.Device, device interface{ Close() error }, name, journal string) (*database, error) {
	v, err := sqlitevol.New(dev)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", name, err)
	}
	conn, forget, err := sqlitevol.Open(v, name, journal)
	if err != nil {
		return nil, err
	}
	return &database{Conn: conn, forget: forget, device: device}, nil
}

// dial opens the database on a volume that a capturer serves.
func dial(ctx context.Context, socket, volume string) (*database, error) {
	client, err := nbd.Dial(ctx, "unix", socket, volume)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volume, err)
	}
	db, err := openDatabase(remote{client}, client, volume, journalMode[volume])
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	return db, nil
}

// openRecovered opens the database in a recovered volume's file, as an application would.
func openRecovered(path, name string) (*database, error) {
	f, err := sqlitevol.OpenFile(path)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(f, f, name, "")
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return db, nil
}

// sever closes the device under the database: every call that runs or comes fails.
func (d *database) sever() { _ = d.device.Close() }

// close closes the database. One whose device is gone has nothing to lose, so errors are of no use.
func (d *database) close() {
	_ = d.Conn.Close()
	d.forget()
	_ = d.device.Close()
}
