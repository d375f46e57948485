package embedded

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // registers the driver
)

// Migrations are applied in order and never changed once released: 0001.sql makes schema 1 from
// nothing, 0002.sql makes schema 2 of that, and so on. The schema's number is SQLite's user_version.
//
//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the database file as ours ("rvgl").
const applicationID = 0x7276676c

const databaseName = "routevigil.db"

func schemaVersion() int {
	entries, _ := migrations.ReadDir("migrations")
	return len(entries)
}

// openDatabase opens the two faces of the database: one connection that writes, a pool that reads.
func openDatabase(dir string) (write, read *sql.DB, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", dir, err)
	}
	// page_size and auto_vacuum only matter for a new file. With pages of 8 KiB a batch of a thousand
	// updates needs a handful; incremental vacuum gives back what a tail that grew long had taken.
	dsn := (&url.URL{Scheme: "file", Path: filepath.Join(abs, databaseName)}).String() +
		"?_busy_timeout=10000&_auto_vacuum=incremental&_pragma=page_size(8192)" +
		"&_journal_mode=WAL&_synchronous=FULL&_foreign_keys=on&_dqs=0&_pragma=journal_size_limit(67108864)"
	if write, err = sql.Open("sqlite", dsn); err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", dir, err)
	}
	write.SetMaxOpenConns(1)
	if err := migrate(dir, write); err != nil {
		write.Close()
		return nil, nil, err
	}
	if read, err = sql.Open("sqlite", dsn+"&_query_only=on"); err != nil {
		write.Close()
		return nil, nil, fmt.Errorf("store %s: %w", dir, err)
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return write, read, nil
}

func migrate(dir string, db *sql.DB) error {
	ctx := context.Background()
	fail := func(err error) error { return fmt.Errorf("store %s: opening %s: %w", dir, databaseName, err) }
	var version, id int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fail(err)
	}
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return fail(err)
	}
	if version > 0 && id != applicationID {
		return fmt.Errorf("store %s: %s is another program's database; choose another directory", dir, databaseName)
	}
	if known := schemaVersion(); version > known {
		return fmt.Errorf("store %s has schema %d, written by a newer routevigil; this one knows up to %d: run the newer one, or choose another directory",
			dir, version, known)
	}
	for version < schemaVersion() {
		version++
		text, err := migrations.ReadFile(fmt.Sprintf("migrations/%04d.sql", version))
		if err != nil {
			return fail(err)
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fail(err)
		}
		steps := []string{string(text), fmt.Sprintf("PRAGMA user_version = %d", version), fmt.Sprintf("PRAGMA application_id = %d", applicationID)}
		if _, err := tx.ExecContext(ctx, strings.Join(steps, "\n;")); err != nil {
			tx.Rollback()
			return fail(fmt.Errorf("migration %d: %w", version, err))
		}
		if err := tx.Commit(); err != nil {
			return fail(fmt.Errorf("migration %d: %w", version, err))
		}
	}
	return nil
}
