package cdc

// DefaultBudget is the budget of a recorder that was given none, in bytes.
const DefaultBudget = 64 << 20

// Budget bounds the memory of a process's recorders.
type Budget struct{ total int64 }

// NewBudget returns a budget of the given number of bytes.
func NewBudget(bytes int64) *Budget { return &Budget{total: bytes} }
