package ingest

import "time"

// GapState is where a Gap stands.
type GapState string

const (
	GapOpen    GapState = "open"    // nothing has been heard since
	GapWaiting GapState = "waiting" // it has ended; the archive's files are waited for or being read
	GapDone    GapState = "done"    // history has been completed from the archive
	GapFailed  GapState = "failed"  // given up; Error says why

	// GapImported is that of the record of an import, which is no gap of a feed but is kept like one: history between From
	// and Until was brought from another store. Feed names what was imported, and Taken rows of it are there.
	GapImported GapState = "imported"
)

// Gap is a time in which a live feed did not tell what a collector heard: the connection was lost or
// silent, nobody was there to listen, or what it kept for us had been deleted when we came.
type Gap struct {
	ID          uint64    `json:"-"` // given by the store; 0 before
	Feed        string    `json:"-"`
	Collector   string    `json:"collector"`
	PeerASN     uint32    `json:"peer_asn,omitempty"`    // only what this peer said was missed; 0: what all said
	From        time.Time `json:"from"`                  // stamp of the last update before
	Until       time.Time `json:"until,omitzero"`        // stamp of the first update after; zero while open
	State       GapState  `json:"state"`                 // open, waiting, done, failed or imported
	Updates     uint64    `json:"updates"`               // added to the history so far
	Attempts    int       `json:"attempts"`              // at reading the archive
	NextAttempt time.Time `json:"next_attempt,omitzero"` // while waiting
	Error       string    `json:"error,omitempty"`       // what the last attempt lacked

	// How far reading has come: every file of the archive that begins before File has been taken, and of
	// the one that begins then, the first Taken updates that lie in the gap.
	File  time.Time `json:"-"`
	Taken uint64    `json:"-"`
}
