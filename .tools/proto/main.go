// Command proto writes the Go code of shared/proto/weft/v1/*.proto. It needs no protoc: the files are compiled by
// protocompile, and the plugins are tools of this module. Run it in .tools:
//
//	GOWORK=off go run ./proto
//
// With -check it writes nothing and fails if what is there is not what it would write.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// root is the folder of the proto files, and of what is generated from them, seen from .tools.
const root = "../shared/proto"

// plugins are what writes code, with their parameters.
var plugins = map[string]string{
	"protoc-gen-go":         "paths=source_relative",
	"protoc-gen-connect-go": "paths=source_relative,simple",
}

func main() {
	check := flag.Bool("check", false, "write nothing; fail if the code is not fresh")
	flag.Parse()
	if err := run(context.Background(), *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, check bool) error {
	files, err := generate(ctx)
	if err != nil {
		return err
	}
	there, err := generated()
	if err != nil {
		return err
	}
	stale := errors.New("the code of shared/proto is not what its proto files say; run: GOWORK=off go -C .tools run ./proto")
	for name := range there {
		if _, ok := files[name]; ok {
			continue
		}
		if check {
			return fmt.Errorf("%w (%s is left over)", stale, name)
		}
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for name, code := range files {
		if bytes.Equal(there[name], code) {
			continue
		}
		if check {
			return fmt.Errorf("%w (%s)", stale, name)
		}
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, code, 0o644)); err != nil { //nolint:gosec // it is source code
			return err
		}
	}
	return nil
}

// generate is the code of every proto file, by path below root.
func generate(ctx context.Context) (map[string][]byte, error) {
	request, err := compile(ctx)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for plugin, parameter := range plugins {
		request.Parameter = &parameter
		input, err := proto.Marshal(request)
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, "go", "tool", plugin) //nolint:gosec // one of two
		cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
		output, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", plugin, err)
		}
		var answer pluginpb.CodeGeneratorResponse
		if err := proto.Unmarshal(output, &answer); err != nil {
			return nil, fmt.Errorf("%s: %w", plugin, err)
		}
		if answer.Error != nil {
			return nil, fmt.Errorf("%s: %s", plugin, answer.GetError())
		}
		for _, f := range answer.GetFile() {
			files[f.GetName()] = []byte(f.GetContent())
		}
	}
	return files, nil
}

// compile reads every proto file below root into what a plugin asks for.
func compile(ctx context.Context) (*pluginpb.CodeGeneratorRequest, error) {
	names, err := find(".proto")
	if err != nil {
		return nil, err
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	done := make(map[string]bool)
	for _, f := range files {
		request.ProtoFile = with(request.ProtoFile, f, done)
	}
	return request, nil
}

// with appends a file behind those that it imports.
func with(list []*descriptorpb.FileDescriptorProto, f protoreflect.FileDescriptor, done map[string]bool) []*descriptorpb.FileDescriptorProto {
	if done[f.Path()] {
		return list
	}
	done[f.Path()] = true
	for i := range f.Imports().Len() {
		list = with(list, f.Imports().Get(i).FileDescriptor, done)
	}
	return append(list, protoutil.ProtoFromFileDescriptor(f))
}

// generated is the generated code that is there.
func generated() (map[string][]byte, error) {
	there := make(map[string][]byte)
	for _, suffix := range []string{".pb.go", ".connect.go"} {
		names, err := find(suffix)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			code, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return nil, err
			}
			there[name] = code
		}
	}
	return there, nil
}

// find lists the files below root with a suffix, in order.
func find(suffix string) (names []string, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || len(path) < len(suffix) || path[len(path)-len(suffix):] != suffix {
			return err
		}
		name, err := filepath.Rel(root, path)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	return names, err
}
