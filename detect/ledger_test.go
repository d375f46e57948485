package detect

import "testing"

// spy counts how often it is read.
type spy struct{ reads *int }

func (s spy) String() string { *s.reads++; return "a spy" }

func TestLedgerIsWrittenWhenRead(t *testing.T) {
	reads := 0
	l := newLedger()
	l.add("test", 1, "path", "", "seen by %s, %d of %s", spy{&reads}, 7, asList{1, 2, 3, 4, 5, 6, 7})
	if l.confidence() <= newLedger().confidence() || reads != 0 {
		t.Errorf("confidence %.2f; the text was written %d times before anybody read it", l.confidence(), reads)
	}
	es := l.evidence()
	if want := "seen by a spy, 7 of AS1, AS2, AS3, AS4, AS5 and 2 more"; es[1].Detail != want || reads != 1 {
		t.Errorf("%q, want %q; read %d times", es[1].Detail, want, reads)
	}
	if again := ledgerOf(es).evidence(); again[1] != es[1] || ledgerOf(es).sum() != l.sum() {
		t.Errorf("%+v, of %+v", again[1], es[1])
	}
}
