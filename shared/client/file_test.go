package client

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func openFile(t testing.TB, path string) *File {
	t.Helper()
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestAFileKeepsTheCursors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursors")
	f := openFile(t, path)
	if s, err := f.Load(t.Context()); err != nil || s.Epoch != "" || len(s.Cursors) != 0 {
		t.Errorf("a new file has %+v, %v", s, err)
	}
	var want State
	for seq := range uint64(3) {
		want = State{Epoch: "e", Cursors: map[string]uint64{"user:alice": seq, "topic:ü\n": 1<<64 - 1}}
		if err := f.Save(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := openFile(t, path).Load(t.Context()); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("after a restart it has %+v, %v", s, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(path + "*")
	if err != nil || len(left) != 2 {
		t.Errorf("beside it lies %v, %v; want the lock only", left, err)
	}
}

func TestAFileStaysWhereItIs(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	f := openFile(t, "cursors")
	t.Chdir(t.TempDir()) // the program goes elsewhere
	if err := f.Save(t.Context(), State{Epoch: "e"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "cursors")); err != nil {
		t.Error(err)
	}
}

func TestAFileHasOneOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursors")
	f := openFile(t, path)
	_, err := OpenFile(path)
	if !errors.Is(err, errHeld) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "a file of its own") {
		t.Errorf("a second owner: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	openFile(t, path)
	if _, err := OpenFile(filepath.Join(path, "x")); err == nil {
		t.Error("a folder that is none was taken")
	}
}

func TestADamagedFileIsNeverAnEmptyOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursors")
	f := openFile(t, path)
	for name, text := range map[string]string{
		"empty":          "",
		"cut":            `{"format":"weft cursors 1","epoch":"e","cursors":{"user:al`,
		"zeros":          strings.Repeat("\x00", 100),
		"two":            `{"format":"weft cursors 1","epoch":"e","cursors":{}}{}`,
		"somebody's":     `{"epoch":"e","cursors":{"user:alice":1}}`,
		"a later format": `{"format":"weft cursors 2","epoch":"e","cursors":{"user:alice":1}}`,
		"a later member": `{"format":"weft cursors 1","epoch":"e","cursors":{},"more":1}`,
		"no epoch":       `{"format":"weft cursors 1","epoch":"","cursors":{"user:alice":1}}`,
		"negative":       `{"format":"weft cursors 1","epoch":"e","cursors":{"user:alice":-1}}`,
		"null":           `null`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Dial(t.Context(), Options{URL: "ws://127.0.0.1:1", Device: "d", Token: func(context.Context) (string, error) { return "", nil }, Cursors: f})
		if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%s: the file has become %q, %v", name, now, err)
		}
	}
}

// A process that died while it saved leaves the old cursors, and half of the new ones beside them.
func TestASaveThatWasCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursors")
	f := openFile(t, path)
	want := State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 7}}
	if err := f.Save(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(`{"format":"weft curs`), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Load(t.Context()); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("loaded %+v, %v", s, err)
	}
	want.Cursors["user:alice"] = 8
	if err := f.Save(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Load(t.Context()); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("loaded %+v, %v", s, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("what was left over has given it the mode %v, %v", info.Mode(), err)
	}
}

func TestASaveThatFailsChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursors")
	f := openFile(t, path)
	want := State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 7}}
	if err := f.Save(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".new", "full"), 0o700); err != nil { // so that it can't be written
		t.Fatal(err)
	}
	if err := f.Save(t.Context(), State{Epoch: "e"}); err == nil {
		t.Error("it was saved")
	}
	if s, err := f.Load(t.Context()); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("loaded %+v, %v", s, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(t.Context()); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder in its place: %v", err)
	}
}

func TestADeviceGoesOnAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursors")
	url := serve(t,
		func(p *peer) { p.welcome(1); p.send(msg(1), msg(2)); p.acked("", 2); p.gone() },
		func(p *peer) {
			if p.hello.Cursors["user:alice"] != 2 || p.hello.Epoch != "e" {
				t.Errorf("after the restart the hello is %+v", p.hello)
			}
			p.welcome(3)
			p.send(msg(2), msg(3))
			p.gone()
		})
	for _, want := range [][]uint64{{1, 2}, {3}} {
		f := openFile(t, path)
		l := listen(t, url, func(o *Options) { o.Cursors = f })
		l.want(want...)
		l.end()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"format":"weft cursors 1","epoch":"e","cursors":{"user:alice":7}}`))
	f.Add([]byte(`{"format":"weft cursors 1","epoch":"e","cursors":{"a":1,"a":2}} `))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeState(text)
		if err == nil && len(s.Cursors) > 0 && s.Epoch == "" {
			t.Errorf("%q was taken for %+v", text, s)
		}
	})
}

func BenchmarkFile(b *testing.B) {
	f := openFile(b, filepath.Join(b.TempDir(), "cursors"))
	s := State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 7, "all": 9}}
	for b.Loop() {
		if err := f.Save(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}
