package record

import (
	"reflect"
	"testing"
)

func TestHistoryIsReadAsItWasWritten(t *testing.T) {
	folder := t.TempDir()
	log, err := Create(folder)
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{
		{Kind: KindRun, Run: &Run{Seed: 7, Form: "ci", Devices: []Device{{Name: "u/a", User: "u", App: true, Addresses: []string{"user:u"}}}}},
		{Kind: KindOp, Op: &Op{Writer: "w", To: "user:u", Counter: 1, ID: "w-1", Door: Stream, Start: 1, End: 2, Tries: 1, Result: OK}},
		{Kind: KindConn, Conn: &Conn{Device: "u/a", What: "open", Node: "n"}},
		{Kind: KindGot, Got: &Got{Device: "u/a", At: 3, Session: 1, To: "user:u", Seq: 1, ID: "w-1", Writer: "w", Counter: 1, For: "user:u", Sound: true}},
		{Kind: KindGap, Gap: &Gap{Device: "u/a", To: "user:u", From: 2, Until: 3, Why: "expired"}},
		{Kind: KindFault, Fault: &Fault{Name: "kill", Target: "push-1", From: 4, Healed: 5, InFlight: 6, Injected: true}},
	}
	for _, r := range want {
		log.Add(r)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var got []Record
	if err := Read(folder, func(r Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v", got)
	}
}
