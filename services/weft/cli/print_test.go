package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/client"
)

func TestALineForAPerson(t *testing.T) {
	at := time.Date(2026, 11, 22, 14, 2, 11, 5e6, time.Local)
	now := at.Add(3400 * time.Microsecond)
	for name, c := range map[string]struct {
		m      client.Message
		colour bool
		want   string
	}{
		"JSON":     {client.Message{Address: "user:alice", Seq: 7, Type: "greeting", Data: []byte("{\n \"a\": 1 }")}, false, `     7  user:alice  greeting  14:02:11.005  3ms  {"a":1}`},
		"no type":  {client.Message{Address: "all", Seq: 1234567, Data: []byte("1"), Again: true}, false, `1234567  all  again  14:02:11.005  3ms  1`},
		"text":     {client.Message{Address: "all", Seq: 1, ContentType: "text/plain", Data: []byte("grüße\n\x1b[2Jx")}, false, `     1  all  14:02:11.005  3ms  grüße\n\x1b[2Jx`},
		"bytes":    {client.Message{Address: "all", Seq: 1, ContentType: "image/png", Data: []byte("\x00\xff")}, false, `     1  all  14:02:11.005  3ms  (2 bytes of image/png)`},
		"forged":   {client.Message{Address: "user:a\r\nb", Seq: 1, Type: "\x1b]0;t\a", Data: []byte("1")}, false, `     1  user:a\r\nb  \x1b]0;t\a  14:02:11.005  3ms  1`},
		"reversed": {client.Message{Address: "all", Seq: 1, Data: []byte("\"\u202e\"")}, false, `     1  all  14:02:11.005  3ms  "\u202e"`},
		"colour":   {client.Message{Address: "all", Seq: 1, Data: []byte("1")}, true, "\x1b[1m     1\x1b[0m  \x1b[32mall\x1b[0m  \x1b[2m14:02:11.005\x1b[0m  \x1b[2m3ms\x1b[0m  1"},
	} {
		c.m.At = at
		if got := text(c.m, now, c.colour); got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, c.want)
		}
	}
}

func TestALineForAProgram(t *testing.T) {
	var out bytes.Buffer
	show := printer(forMachines, &out)
	at := time.UnixMilli(1700000000123)
	for _, m := range []client.Message{
		{Address: "user:alice", Seq: 7, ID: "a<b", Type: "t", ContentType: "application/json", At: at, Data: []byte("{\n \"a\": \"<\" }")},
		{Address: "all", Seq: 1, ID: "x", ContentType: "image/png", At: at, Data: []byte("\x00\xff"), Again: true},
	} {
		if err := show(m, at.Add(1500*time.Microsecond)); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"address":"user:alice","seq":7,"id":"a<b","type":"t","content_type":"application/json","at":1700000000123,"latency_ms":1.5,"data":{"a":"<"}}
{"address":"all","seq":1,"id":"x","content_type":"image/png","at":1700000000123,"latency_ms":1.5,"re":true,"data64":"AP8="}
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	for l := range strings.Lines(out.String()) {
		if !json.Valid([]byte(l)) {
			t.Errorf("no JSON: %s", l)
		}
	}
}
