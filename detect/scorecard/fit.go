package scorecard

import "io"

type Fitted struct{}

func Fit(rs []Result) *Fitted { return nil }
func (f *Fitted) Write(w io.Writer) error { return nil }
