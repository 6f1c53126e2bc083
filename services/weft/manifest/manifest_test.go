package manifest

import (
	"errors"
	"io/fs"
	"os"
	"reflect"
	"testing"
)

func TestWriteReadRemove(t *testing.T) {
	data := t.TempDir()
	if _, err := Read(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing runs: %v, want fs.ErrNotExist", err)
	}
	want := Manifest{
		Name: "dev", Data: data, NATS: "nats://127.0.0.1:4222", Push: []string{"http://127.0.0.1:8080"}, Collect: []string{"http://127.0.0.1:8081"},
		Keys: data + "/keys", Processes: []Process{{Name: "dev", Role: "all", PID: 7, Argv: []string{"weft", "dev"}, Ports: []int{1}, Data: data}},
	}
	for range 2 { // a second start writes over what a killed one left
		if err := Write(data, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(data)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	entries, err := os.ReadDir(data)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
	for range 2 {
		if err := Remove(data); err != nil {
			t.Error(err)
		}
	}
	if _, err := Read(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}

func TestReadNamesABrokenFile(t *testing.T) {
	data := t.TempDir()
	if err := os.WriteFile(data+"/manifest.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(data); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read a broken manifest: %v", err)
	}
}
