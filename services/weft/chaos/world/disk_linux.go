package world

import (
	"fmt"
	"syscall"
)

func mount(folder string, size int64) error {
	return syscall.Mount("tmpfs", folder, "tmpfs", 0, options(size))
}

func resize(folder string, size int64) error {
	return syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT, options(size))
}

// unmount takes a disk away even if a process still has a file open on it.
func unmount(folder string) error { return syscall.Unmount(folder, syscall.MNT_DETACH) }

func options(size int64) string { return fmt.Sprintf("size=%d", size) }
