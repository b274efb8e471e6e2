// Package bank is the demo's workload: two databases that only make sense together.
//
// The ledger books a debit for every transfer, the settlement its credit. A transfer's debit commits
// before its credit begins, and a debit begins only when the credit Window transfers before it has
// committed. So in every consistent cut through both databases the credits are a prefix of the
// debits and trail them by at most Window: an order broken across volumes is visible, in
// both directions. Every row follows from the seed and its number, so a cut can be checked to the byte.
package bank

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
)

// Plan fixes the content of both databases.
type Plan struct {
	Seed      uint64
	Accounts  int // accounts of each database
	Customers int // rows of the ledger's table of customers
	Window    int // transfers between debit and credit at most
}

// opening is an account's balance in the ledger before the first transfer, in cents.
const opening = 100_000_000

// Transfer is one movement of money.
type Transfer struct {
	ID      int64 // from 1, without gaps
	Account int64 // from 1
	Amount  int64 // cents, at least 1
	Note    string
}

// Transfer returns the transfer of a number.
func (p Plan) Transfer(id int64) Transfer {
	r := rand.New(rand.NewPCG(p.Seed, uint64(id)))
	note := make([]byte, 20+r.IntN(400))
	for i := range note {
		note[i] = byte(r.Uint32())
	}
	return Transfer{
		ID: id, Account: 1 + r.Int64N(int64(p.Accounts)), Amount: 1 + r.Int64N(10_000),
		Note: hex.EncodeToString(note),
	}
}

// Customer returns the name of a customer, numbered from 1.
func (p Plan) Customer(id int64) string {
	r := rand.New(rand.NewPCG(p.Seed^0xc057, uint64(id)))
	return fmt.Sprintf("customer %d %016x", id, r.Uint64())
}
