package replica

// Tap returns a target as sets write it, of a set without snapshots.
func Tap(t Target) Target { return new(Set).tapped(t) }

// MarkLost lets a snapshot be lost whose parts are not released yet: what one writer does while another one goes on.
func (s *Snapshot) MarkLost() {
	err := ErrSnapshotLost
	s.lost.Store(&err)
}

// Spilt returns how many chunks of a volume a snapshot has copied and still keeps.
func (s *Snapshot) Spilt(volume string) int64 {
	m := s.parts[volume].(*image)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spilt.Len()
}

// Shared tells whether a volume of a snapshot shares its blocks with the replica.
func (s *Snapshot) Shared(volume string) bool {
	_, ok := s.parts[volume].(*filePart)
	return ok
}
