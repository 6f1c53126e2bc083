package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/weftpush/weft/services/weft/up"
)

const (
	// tightenEvery is how often a full disk is made full again, since servers delete as well.
	tightenEvery = 50 * time.Millisecond
	// page is the least that a tmpfs may have: 0 would be no limit.
	page = 4096
	// fullWait is how long a server may take to go on by itself once there is room again.
	fullWait = 5 * time.Second
	// fillWait is how long the first fill is tried: a server that writes meanwhile makes it fail.
	fillWait = 5 * time.Second
)

// disk is the small disks of the nats-servers.
type disk struct {
	folders map[string]string // of each server
	size    int64
	refused error // why there are none
}

// mountDisks mounts a tmpfs on each server's folder, on all of them or none.
func mountDisks(data string, servers []string, size int64) disk {
	d := disk{folders: map[string]string{}, size: size}
	for _, name := range servers {
		folder := up.JetStream(data, name, len(servers))
		err := os.MkdirAll(folder, 0o700)
		if err == nil {
			err = mount(folder, size)
		}
		if err != nil {
			d.refused = errors.Join(fmt.Errorf("a small disk can't be mounted: %w", err), d.unmount())
			return d
		}
		d.folders[name] = folder
	}
	return d
}

func (d *disk) unmount() error {
	var failed []error
	for name, folder := range d.folders {
		failed = append(failed, unmount(folder))
		delete(d.folders, name)
	}
	return errors.Join(failed...)
}

// fillDisk leaves a server no room: its disk is made as small as what is on it, again and again, which costs no memory.
// nats-server shuts its JetStream down when a disk is full, and nothing but a new start brings it back: if it has not
// come back by itself a while after there is room, it is killed and started.
func fillDisk(ctx context.Context, w *World, _ *Plan, s Step) (undo, error) {
	if w.disk.refused != nil {
		return nil, w.disk.refused
	}
	folder := w.disk.folders[s.Target]
	if err := fill(ctx, folder); err != nil {
		return nil, errors.Join(err, resize(folder, w.disk.size))
	}
	var filler sync.WaitGroup
	filling, stop := context.WithCancel(context.WithoutCancel(ctx))
	filler.Go(func() {
		for wait(filling, tightenEvery) {
			_ = tighten(folder) // grown meanwhile: the next time
		}
	})
	return func(ctx context.Context) (string, error) {
		stop()
		filler.Wait()
		if err := resize(folder, w.disk.size); err != nil {
			return "", err
		}
		return w.revive(ctx, s.Target)
	}, nil
}

// fill tightens a disk, again while a server writes to it at the same time.
func fill(ctx context.Context, folder string) error {
	ctx, cancel := context.WithTimeout(ctx, fillWait)
	defer cancel()
	for {
		err := tighten(folder)
		if !errors.Is(err, syscall.EINVAL) || !wait(ctx, time.Millisecond) {
			return err
		}
	}
}

// tighten makes a disk as small as what is on it. It fails with EINVAL if more was written between the look and the
// change.
func tighten(folder string) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return fmt.Errorf("measure %s: %w", filepath.Base(folder), err)
	}
	return resize(folder, max(page, int64(s.Blocks-s.Bfree)*int64(s.Bsize))) //nolint:gosec // what a disk has fits
}

// revive starts a server again that does not come back by itself.
func (w *World) revive(ctx context.Context, server string) (string, error) {
	short, cancel := context.WithTimeout(ctx, fullWait)
	defer cancel()
	if w.fabric.Await(short, server) == nil {
		return "", nil
	}
	release, err := w.kill(server)
	if err != nil {
		return "", err
	}
	release()
	return server + " had to be started again", nil
}
