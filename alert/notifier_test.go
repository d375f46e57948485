package alert_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/alert/alerttest"
	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/store"
)

// fake is a channel that does as told and remembers.
type fake struct {
	quiet
	answer func(n int, key string) error // to the n-th attempt, from 1; nil accepts everything
	takes  time.Duration                 // of one attempt

	mu       sync.Mutex
	attempts []attempt
}

type attempt struct {
	key string
	at  time.Time
}

func (f *fake) Send(ctx context.Context, key string, body []byte) (string, error) {
	f.mu.Lock()
	f.attempts = append(f.attempts, attempt{key, time.Now()})
	n := len(f.attempts)
	f.mu.Unlock()
	if f.takes > 0 {
		select {
		case <-time.After(f.takes):
		case <-ctx.Done():
			return "", &channel.Failure{Reason: "cancelled"}
		}
	}
	if f.answer != nil {
		if err := f.answer(n, key); err != nil {
			return "", err
		}
	}
	return "200 OK", nil
}

func (f *fake) keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for _, a := range f.attempts {
		keys = append(keys, a.key)
	}
	return keys
}

func transient(n int, _ string) error { return &channel.Failure{Reason: "503 busy", Receipt: "503"} }
func refused(n int, _ string) error {
	return &channel.Failure{Kind: channel.Refused, Reason: "404 not here", Receipt: "404"}
}

// message makes a pending delivery; its key is "receiver/incident/sequence".
func message(receiver, incident string, sequence uint64) store.Delivery {
	now := time.Now()
	return store.Delivery{Key: fmt.Sprintf("%s/%s/%d", receiver, incident, sequence), IncidentID: incident, Sequence: sequence, Receiver: receiver,
		Body: []byte("{}"), State: store.Pending, CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(24 * time.Hour)}
}

// notify runs a notifier to the channels until the returned function is called.
func notify(t *testing.T, o alert.Outbox, r prometheus.Registerer, channels map[string]*fake) (stop func()) {
	t.Helper()
	var receivers []alert.Receiver
	for name, c := range channels {
		receivers = append(receivers, alert.Receiver{Name: name, Channel: c})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- alert.NewNotifier(receivers, o, r, slog.New(slog.DiscardHandler)).Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func only(t *testing.T, o *alerttest.Outbox) store.Delivery {
	t.Helper()
	all := o.All()
	if len(all) != 1 {
		t.Fatalf("%d messages, want 1", len(all))
	}
	return all[0]
}

func TestDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, c := &alerttest.Outbox{}, &fake{}
		stop := notify(t, o, nil, map[string]*fake{"noc": c})
		synctest.Wait()
		began := time.Now()
		o.Commit(message("noc", "inc_a", 1)) // the notifier is woken, it does not wait for its next look
		synctest.Wait()
		d := only(t, o)
		if d.State != store.Delivered || d.Attempts != 1 || d.Receipt != "200 OK" || !d.UpdatedAt.Equal(began) {
			t.Errorf("%+v", d)
		}
		time.Sleep(time.Hour)
		if n := len(c.keys()); n != 1 {
			t.Errorf("sent %d times", n)
		}
		stop()
	})
}

// TestBackoff: a receiver that fails for an hour is tried less and less often, and gets the message
// in the end.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := &alerttest.Outbox{}
		c := &fake{answer: func(n int, key string) error {
			if time.Since(began) < time.Hour {
				return transient(n, key)
			}
			return nil
		}}
		o.Commit(message("noc", "inc_a", 1))
		stop := notify(t, o, nil, map[string]*fake{"noc": c})
		time.Sleep(2 * time.Hour)
		stop()
		if d := only(t, o); d.State != store.Delivered || d.LastError != "" || d.Attempts != len(c.attempts) {
			t.Errorf("%+v after %d attempts", d, len(c.attempts))
		}
		limit := 5 * time.Second
		for i := 1; i < len(c.attempts); i++ {
			waited := c.attempts[i].at.Sub(c.attempts[i-1].at)
			if waited < limit/2 || waited > limit+time.Second { // the notifier looks once a second
				t.Errorf("attempt %d came after %s, want from %s to %s", i+1, waited, limit/2, limit)
			}
			limit = min(2*limit, 10*time.Minute)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		name         string
		asked        time.Duration
		least, about time.Duration
	}{
		{"longer than the back-off", 2 * time.Minute, 2 * time.Minute, 2 * time.Minute},
		{"shorter than the back-off", time.Second, 2500 * time.Millisecond, 5 * time.Second},
		{"absurd", 1000 * time.Hour, time.Hour, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &alerttest.Outbox{}
				c := &fake{answer: func(n int, _ string) error {
					if n == 1 {
						return &channel.Failure{Reason: "503", RetryAfter: tt.asked}
					}
					return nil
				}}
				o.Commit(message("noc", "inc_a", 1))
				stop := notify(t, o, nil, map[string]*fake{"noc": c})
				time.Sleep(3 * time.Hour)
				stop()
				if len(c.attempts) != 2 {
					t.Fatalf("%d attempts, want 2", len(c.attempts))
				}
				if waited := c.attempts[1].at.Sub(c.attempts[0].at); waited < tt.least || waited > tt.about+time.Second {
					t.Errorf("waited %s, want from %s to %s", waited, tt.least, tt.about)
				}
			})
		})
	}
}

func TestGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name     string
		answer   func(n int, key string) error
		attempts int           // 0: any
		within   time.Duration // it is given up not later
		after    time.Duration // and not before
	}{
		{"expired", transient, 0, 24*time.Hour + time.Second, 24 * time.Hour},
		{"refused", refused, 8, 11 * time.Minute, 5 * time.Minute},
		{"gone", func(int, string) error { return &channel.Failure{Kind: channel.Gone, Reason: "410 gone"} }, 1, 0, 0},
		{"an error of no kind", func(int, string) error { return errors.New("odd") }, 0, 24*time.Hour + time.Second, 24 * time.Hour},
		{"refused, but never eight times in a row", func(n int, key string) error {
			if n%8 == 0 {
				return transient(n, key)
			}
			return refused(n, key)
		}, 0, 24*time.Hour + time.Second, 24 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, c := &alerttest.Outbox{}, &fake{answer: tt.answer}
				began := time.Now()
				o.Commit(message("noc", "inc_a", 1))
				stop := notify(t, o, nil, map[string]*fake{"noc": c})
				time.Sleep(48 * time.Hour)
				stop()
				d := only(t, o)
				if d.State != store.Expired || d.LastError == "" || !d.NextAttempt.IsZero() || d.Attempts != len(c.attempts) || tt.attempts > 0 && d.Attempts != tt.attempts {
					t.Errorf("%+v after %d attempts", d, len(c.attempts))
				}
				if took := d.UpdatedAt.Sub(began); took < tt.after || took > tt.within {
					t.Errorf("given up after %s, want from %s to %s", took, tt.after, tt.within)
				}
			})
		})
	}
}

// TestExpiredWhileStopped: a message whose time passed while nothing ran is not sent.
func TestExpiredWhileStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, c := &alerttest.Outbox{}, &fake{}
		o.Commit(message("noc", "inc_a", 1))
		time.Sleep(25 * time.Hour)
		stop := notify(t, o, nil, map[string]*fake{"noc": c})
		synctest.Wait()
		stop()
		if d := only(t, o); d.State != store.Expired || d.Attempts != 0 || len(c.attempts) != 0 || d.LastError == "" {
			t.Errorf("%+v after %d attempts", d, len(c.attempts))
		}
	})
}

// TestIsolation: a receiver that hangs, with more messages than are ever looked at at a time,
// delays no other receiver.
func TestIsolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &alerttest.Outbox{}
		hangs := &fake{takes: 10 * time.Second, answer: transient}
		well := &fake{}
		for n := range uint64(300) {
			o.Commit(message("hangs", fmt.Sprint("inc_", n), n+1))
		}
		stop := notify(t, o, nil, map[string]*fake{"hangs": hangs, "well": well})
		for n := range uint64(100) {
			began := time.Now()
			o.Commit(message("well", fmt.Sprint("inc_", n), 1000+n))
			synctest.Wait()
			if took := time.Since(began); len(well.keys()) != int(n)+1 || took != 0 {
				t.Fatalf("message %d: %d sent after %s", n, len(well.keys()), took)
			}
			time.Sleep(time.Second)
		}
		if n := len(hangs.keys()); n < 30 || n > 44 {
			t.Errorf("%d attempts at the one that hangs in 100 s, want about 40: 4 at a time, 10 s each", n)
		}
		stop()
	})
}

// TestOrder: what one receiver hears of one incident it hears in order, also when the notifier is
// started anew in between, and the trouble with one incident does not hold up another.
func TestOrder(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &alerttest.Outbox{}
				c := &fake{takes: time.Millisecond}
				failures := 0
				c.answer = func(n int, key string) error {
					if key == "noc/inc_a/1" && failures < 3 {
						failures++
						return transient(n, key)
					}
					return nil
				}
				o.Commit(message("noc", "inc_a", 1), message("noc", "inc_a", 2), message("noc", "inc_b", 3), message("noc", "inc_a", 4))
				stop := notify(t, o, nil, map[string]*fake{"noc": c})
				time.Sleep(time.Second)
				if restart {
					stop()
					stop = notify(t, o, nil, map[string]*fake{"noc": c})
				}
				time.Sleep(time.Second)
				o.Commit(message("noc", "inc_a", 5))
				time.Sleep(5 * time.Minute)
				stop()
				keys := c.keys()
				if i := slices.Index(keys, "noc/inc_b/3"); i < 0 || i > 1 {
					t.Errorf("the other incident had to wait: %v", keys)
				}
				keys = slices.DeleteFunc(keys, func(k string) bool { return k == "noc/inc_b/3" })
				want := []string{"noc/inc_a/1", "noc/inc_a/1", "noc/inc_a/1", "noc/inc_a/1", "noc/inc_a/2", "noc/inc_a/4", "noc/inc_a/5"}
				if !slices.Equal(keys, want) {
					t.Errorf("attempts: %v", keys)
				}
				for _, d := range o.All() {
					if d.State != store.Delivered || strings.HasSuffix(d.Key, "/2") && d.Attempts != 1 {
						t.Errorf("%+v", d)
					}
				}
			})
		})
	}
}

// TestStop: an attempt that ends soon is waited for; one that does not is cut off, counts for
// nothing, and is made again under the same key.
func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration
		done  bool
	}{{"ends soon", 3 * time.Second, true}, {"hangs", time.Hour, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, c := &alerttest.Outbox{}, &fake{takes: tt.takes}
				o.Commit(message("noc", "inc_a", 1))
				stop := notify(t, o, nil, map[string]*fake{"noc": c})
				synctest.Wait()
				began := time.Now()
				stop()
				if took := time.Since(began); took > 6*time.Second {
					t.Errorf("it took %s to stop", took)
				}
				if d := only(t, o); (d.State == store.Delivered) != tt.done || !tt.done && d.Attempts != 0 {
					t.Errorf("%+v", d)
				}
				c.takes = 0
				stop = notify(t, o, nil, map[string]*fake{"noc": c})
				synctest.Wait()
				stop()
				want := []string{"noc/inc_a/1", "noc/inc_a/1"}
				if tt.done {
					want = want[:1]
				}
				if keys := c.keys(); !slices.Equal(keys, want) || only(t, o).State != store.Delivered {
					t.Errorf("attempts %v, now %+v", keys, only(t, o))
				}
			})
		})
	}
}

// TestStoreInTrouble: while the store cannot be read nothing is lost, and while it cannot be
// written nothing is sent twice.
func TestStoreInTrouble(t *testing.T) {
	for _, method := range []string{"DueDeliveries", "Deliveries", "UpdateDelivery", "LastSequence"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				o, c := &alerttest.Outbox{}, &fake{}
				o.Fail = func(m string) error {
					if m == method && time.Since(began) < time.Minute {
						return errors.New("disk full")
					}
					return nil
				}
				o.Commit(message("noc", "inc_a", 1))
				stop := notify(t, o, nil, map[string]*fake{"noc": c})
				time.Sleep(2 * time.Minute)
				if d := only(t, o); d.State != store.Delivered || d.Attempts != 1 || len(c.keys()) != 1 {
					t.Errorf("%+v after %d attempts", d, len(c.keys()))
				}
				stop()
			})
		})
	}
}

// TestOtherReceivers: messages to a receiver that is not configured wait for it.
func TestOtherReceivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, c := &alerttest.Outbox{}, &fake{}
		o.Commit(message("former", "inc_a", 1))
		stop := notify(t, o, nil, map[string]*fake{"noc": c})
		time.Sleep(time.Hour)
		stop()
		if d := only(t, o); d.State != store.Pending || len(c.keys()) != 0 {
			t.Errorf("%+v", d)
		}
		stop = notify(t, o, nil, map[string]*fake{"former": c})
		synctest.Wait()
		stop()
		if d := only(t, o); d.State != store.Delivered {
			t.Errorf("%+v", d)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		o := &alerttest.Outbox{}
		c := &fake{answer: func(n int, key string) error {
			switch {
			case key == "noc/inc_a/1" && n <= 2:
				return transient(n, key)
			case key == "noc/inc_b/2":
				return &channel.Failure{Kind: channel.Gone, Reason: "410"}
			case key == "noc/inc_c/3":
				return refused(n, key)
			}
			return nil
		}}
		o.Commit(message("noc", "inc_a", 1), message("noc", "inc_b", 2), message("noc", "inc_c", 3))
		stop := notify(t, o, registry, map[string]*fake{"noc": c})
		time.Sleep(90 * time.Second) // the refused one has not been given up yet
		stop()
		var a, cc int
		for _, k := range c.keys() {
			switch k {
			case "noc/inc_a/1":
				a++
			case "noc/inc_c/3":
				cc++
			}
		}
		want := fmt.Sprintf(`
# HELP routevigil_alert_attempts_total Attempts to send a message, by receiver and outcome: accepted, transient (it is tried again), refused (it is tried a few times), gone.
# TYPE routevigil_alert_attempts_total counter
routevigil_alert_attempts_total{outcome="accepted",receiver="noc"} 1
routevigil_alert_attempts_total{outcome="gone",receiver="noc"} 1
routevigil_alert_attempts_total{outcome="refused",receiver="noc"} %d
routevigil_alert_attempts_total{outcome="transient",receiver="noc"} %d
# HELP routevigil_alert_expired_total Messages given up without having been accepted, by receiver.
# TYPE routevigil_alert_expired_total counter
routevigil_alert_expired_total{receiver="noc"} 1
# HELP routevigil_alert_pending Messages seen that are neither accepted nor given up, by receiver. After a start those that wait for another attempt count once their time has come.
# TYPE routevigil_alert_pending gauge
routevigil_alert_pending{receiver="noc"} 1
`, cc, a-1)
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
			"routevigil_alert_attempts_total", "routevigil_alert_expired_total", "routevigil_alert_pending"); err != nil {
			t.Error(err)
		}
	})
}
