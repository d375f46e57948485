package clickhouse

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Migrations are applied in order and never changed once released: 0001.sql makes schema 1 from nothing, 0002.sql
// makes schema 2 of that, and so on. Each statement may be run again, as ClickHouse has no transaction around them.
//
//go:embed migrations/*.sql
var migrations embed.FS

func schemaVersion() int {
	entries, _ := migrations.ReadDir("migrations")
	return len(entries)
}

// logPartition is how many positions of the log are dropped together.
const logPartition = 4096

// layout is what migrations may ask: how tables are made on one server or on a cluster.
type layout struct{ cluster string }

// OnCluster follows the name in every CREATE, ALTER and DROP.
func (l layout) OnCluster() string {
	if l.cluster == "" {
		return ""
	}
	return "ON CLUSTER '" + l.cluster + "'"
}

// Engine is for tables that every server of a cluster has whole.
func (l layout) Engine(name string, arguments ...string) string {
	if l.cluster == "" {
		return name + "(" + strings.Join(arguments, ", ") + ")"
	}
	return "Replicated" + name + "(" + strings.Join(append([]string{`'/clickhouse/tables/{database}/{table}'`, `'{shard}-{replica}'`}, arguments...), ", ") + ")"
}

// ShardedEngine is for tables of which every shard of a cluster has a share.
func (l layout) ShardedEngine(name string) string {
	if l.cluster == "" {
		return name
	}
	return "Replicated" + name + `('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')`
}

// Local names the table that a shard keeps its share of table in.
func (l layout) Local(table string) string {
	if l.cluster == "" {
		return table
	}
	return table + "_local"
}

// Distributed makes table out of the shares.
func (l layout) Distributed(table, key string) string {
	if l.cluster == "" {
		return ""
	}
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s %s AS %s ENGINE = Distributed('%s', currentDatabase(), '%s', %s);",
		table, l.OnCluster(), l.Local(table), l.cluster, l.Local(table), key)
}

// DropDistributed undoes Distributed, so that it can be made anew where columns change. It has no rows of its own.
func (l layout) DropDistributed(table string) string {
	if l.cluster == "" {
		return ""
	}
	return fmt.Sprintf("DROP TABLE IF EXISTS %s %s;", table, l.OnCluster())
}

// Durable are settings of tables: what is acknowledged is on the disk, also after a merge.
func (l layout) Durable() string {
	return "fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60"
}

// DeduplicationWindow is for how many blocks a server knows that it has them; replicated tables do so by themselves.
func (l layout) DeduplicationWindow() string {
	if l.cluster == "" {
		return ", non_replicated_deduplication_window = 1000"
	}
	return ""
}

func (l layout) LogPartition() int { return logPartition }

// statements gives those of migration version.
func (l layout) statements(version int) ([]string, error) {
	name := fmt.Sprintf("migrations/%04d.sql", version)
	text, err := migrations.ReadFile(name)
	if err != nil {
		return nil, err
	}
	t, err := template.New(name).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	if err := t.Execute(&b, l); err != nil {
		return nil, err
	}
	var list []string
	for s := range strings.SplitSeq(b.String(), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list, nil
}

// migrate brings the schema up to version upTo. Two that do so at once do the same.
func migrate(ctx context.Context, conn driver.Conn, l layout, upTo int) error {
	err := conn.Exec(ctx, `CREATE TABLE IF NOT EXISTS schema_versions `+l.OnCluster()+` (version UInt32, applied_at DateTime DEFAULT now())
		ENGINE = `+l.Engine("MergeTree")+` ORDER BY version SETTINGS `+l.Durable())
	if err != nil {
		return err
	}
	var version uint32
	if err := conn.QueryRow(ctx, `SELECT max(version) FROM schema_versions`).Scan(&version); err != nil {
		return err
	}
	if int(version) > schemaVersion() {
		return newerSchema(version)
	}
	for v := int(version) + 1; v <= upTo; v++ {
		list, err := l.statements(v)
		if err != nil {
			return fmt.Errorf("migration %d: %w", v, err)
		}
		for _, s := range list {
			if err = conn.Exec(ctx, s); err == nil {
				err = mutated(ctx, conn, l)
			}
			if err != nil {
				return fmt.Errorf("migration %d: %w", v, err)
			}
		}
		if err := conn.Exec(ctx, fmt.Sprintf(`INSERT INTO schema_versions (version) VALUES (%d)`, v)); err != nil {
			return fmt.Errorf("migration %d: %w", v, err)
		}
	}
	return nil
}

// mutated waits until what is stored has been changed as statements said, on every server, which takes as long as it has
// rows.
func mutated(ctx context.Context, conn driver.Conn, l layout) error {
	var database string
	if err := conn.QueryRow(ctx, `SELECT currentDatabase()`).Scan(&database); err != nil {
		return err
	}
	mutations := "system.mutations"
	if l.cluster != "" {
		mutations = fmt.Sprintf("clusterAllReplicas('%s', %s)", l.cluster, mutations)
	}
	for {
		var left uint64
		var failure string
		err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT count(), max(latest_fail_reason) FROM %s WHERE database = '%s' AND NOT is_done`, mutations, database)).Scan(&left, &failure)
		switch {
		case err != nil:
			return err
		case failure != "":
			return errors.New(failure)
		case left == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func newerSchema(version uint32) error {
	return fmt.Errorf("it has schema %d, written by a newer routevigil; this one knows up to %d: run the newer one, or choose another database",
		version, schemaVersion())
}
