package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/routevigil/routevigil/ingest/mrt"
)

// Check reads the file at path to its end and returns how many octets it holds once decompressed. The
// error, which does not name the file, says why it is not a whole MRT file: its container is cut off or
// damaged, it does not begin with a record, or it expands to more than limit octets. A file that holds
// nothing is in order: collectors that heard nothing publish such. The records are not decoded.
func Check(ctx context.Context, path string, limit int64) (int64, error) {
	in, err := openInput(path, nil, nil)
	defer in.close()
	if err != nil {
		return 0, err
	}
	content := bufio.NewReaderSize(in, 64<<10)
	head, err := content.Peek(512)
	if err != nil && err != io.EOF {
		return 0, damaged(err)
	}
	if len(head) > 0 && !mrt.Plausible(head) {
		return 0, mrt.ErrNotMRT
	}
	for n := int64(0); ; {
		m, err := io.CopyN(io.Discard, content, 8<<20)
		n += m
		switch {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, damaged(err)
		case n > limit:
			return n, fmt.Errorf("expands to more than %d octets", limit)
		case ctx.Err() != nil:
			return n, ctx.Err()
		}
	}
}

func damaged(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("cut off")
	}
	return fmt.Errorf("damaged: %w", err)
}
