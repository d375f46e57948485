// Package clickhousetest gives tests real ClickHouse servers: the one that they share, or one of their own that they may
// kill. Without any the tests skip, but under CI they fail.
package clickhousetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/servertest"
)

// variable holds the address of the server that tests share.
const variable = "ROUTEVIGIL_TEST_CLICKHOUSE"

// Shared is the address of the server that tests share; each uses a database of its own.
func Shared(t testing.TB) string {
	t.Helper()
	a := os.Getenv(variable)
	if a == "" {
		bgptest.Missing(t, variable+" does not say where a ClickHouse server is; .ci/clickhouse starts one")
	}
	return a
}

// Database is a name for a database of the test's own.
func Database() string { return fmt.Sprintf("test_%d_%d", time.Now().UnixNano(), rand.Uint32()) }

// Server is one of the test's own. After SIGSTOP it may end when it goes on: the library that it is made of can abort when
// the clients that waited for it have gone. So it wants [servertest.Server.Revive].
type Server = servertest.Server

// New starts a server that keeps its data in directory, and ends it with the test.
func New(t testing.TB, directory string) *Server {
	t.Helper()
	Shared(t)
	return servertest.New(t, "clickhouse", directory, servertest.Ports(t, 2)...)
}
