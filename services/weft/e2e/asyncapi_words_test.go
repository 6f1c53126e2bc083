package e2e

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	lifecycle "github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// both reports what only the Go packages and what only asyncapi.yaml has.
func both(t *testing.T, what string, inGo, inDocument []string) {
	t.Helper()
	if len(inGo) == 0 {
		t.Errorf("%s: none found in Go", what)
	}
	for _, word := range inGo {
		if !slices.Contains(inDocument, word) {
			t.Errorf("%s: asyncapi.yaml lacks %s", what, word)
		}
	}
	for _, word := range inDocument {
		if !slices.Contains(inGo, word) {
			t.Errorf("%s: asyncapi.yaml has %s, which no Go package knows", what, word)
		}
	}
}

// declarations are the constants of a package's files, tests aside, for which want is true.
func declarations(t *testing.T, folder string, want func(name, typed string) bool) []string {
	t.Helper()
	var values []string
	for _, file := range sources(t, folder) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			typed := ""
			if ident, ok := spec.Type.(*ast.Ident); ok {
				typed = ident.Name
			}
			literal, ok := spec.Values[0].(*ast.BasicLit)
			if !ok || !want(spec.Names[0].Name, typed) {
				return true
			}
			value := literal.Value
			if unquoted, err := strconv.Unquote(value); err == nil {
				value = unquoted
			}
			values = append(values, value)
			return true
		})
	}
	return values
}

func sources(t *testing.T, folder string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("../../..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return strings.HasSuffix(path, "_test.go") })
	if len(paths) == 0 {
		t.Fatalf("%s has no Go files", folder)
	}
	var files []*ast.File
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

// alternatives are the constants of a schema that is one of several.
func (d *document) alternatives(schema string) []string {
	d.t.Helper()
	list, ok := d.at("components", "schemas", schema)["oneOf"].([]any)
	if !ok {
		d.t.Fatalf("the schema %s has no oneOf", schema)
	}
	var words []string
	for _, one := range list {
		one := one.(map[string]any)
		if one["description"] == nil {
			d.t.Errorf("%v of %s is not described", one["const"], schema)
		}
		switch word := one["const"].(type) {
		case string:
			words = append(words, word)
		case json.Number:
			words = append(words, word.String())
		default:
			d.t.Errorf("%v of %s is no constant", one, schema)
		}
	}
	return words
}

func TestAsyncAPIHasTheWordsOfGo(t *testing.T) {
	d := readDocument(t)
	ofType := func(wanted string) func(string, string) bool {
		return func(_, typed string) bool { return typed == wanted }
	}
	for schema, words := range map[string][]string{
		"problemCode": declarations(t, "shared/problem", ofType("Code")),
		"closeCode":   declarations(t, "shared/protocol", ofType("CloseCode")),
		"why":         declarations(t, "shared/message", ofType("Why")),
		"state":       declarations(t, "shared/message", ofType("State")),
		"what":        declarations(t, "shared/event", ofType("What")),
	} {
		both(t, schema, words, d.alternatives(schema))
	}
	var told []string
	for _, name := range d.names("components", "schemas") {
		properties, _ := d.at("components", "schemas", name)["properties"].(map[string]any)
		if t, ok := properties["t"].(map[string]any); ok {
			told = append(told, t["const"].(string))
		}
	}
	told = append(told, path.Base(d.at("channels", "sse", "messages")["close"].(map[string]any)["$ref"].(string))) // a kind of event, told apart by that
	both(t, "values of t", declarations(t, "shared/protocol", func(name, _ string) bool {
		return len(name) > 1 && name[0] == 'T' && name[1] >= 'A' && name[1] <= 'Z'
	}), told)
}

// What a code means is said where programs can read it.
func TestAsyncAPIHasTheMeaningOfCodes(t *testing.T) {
	d := readDocument(t)
	for schema, meaning := range map[string]func(code string) (status int, retry bool){
		"problemCode": func(code string) (int, bool) {
			p := problem.New(problem.Code(code), "")
			return p.Status(), p.Retry
		},
		"closeCode": func(code string) (int, bool) {
			n, _ := strconv.Atoi(code)
			return 0, !protocol.CloseCode(n).Fatal()
		},
	} {
		for _, one := range d.at("components", "schemas", schema)["oneOf"].([]any) {
			one := one.(map[string]any)
			code := fmt.Sprint(one["const"])
			status, retry := meaning(code)
			if said := one["x-status"]; status != 0 && fmt.Sprint(said) != strconv.Itoa(status) {
				t.Errorf("%s has the status %d, and asyncapi.yaml says %v", code, status, said)
			}
			if said := one["x-retry"] == true; said != retry {
				t.Errorf("%s is worth a retry: %v, and asyncapi.yaml says %v", code, retry, said)
			}
		}
	}
}

// members are the names that encoding/json gives the fields of a struct.
func members(of reflect.Type) []string {
	var names []string
	for _, field := range reflect.VisibleFields(of) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && !field.Anonymous {
			names = append(names, name)
		}
	}
	return names
}

func TestAsyncAPIHasTheMembersOfGo(t *testing.T) {
	d := readDocument(t)
	properties := func(schemas ...string) []string {
		var names []string
		for _, schema := range schemas {
			names = append(names, d.names("components", "schemas", schema, "properties")...)
		}
		return names
	}
	for schema, of := range map[string]reflect.Type{
		"welcome": reflect.TypeFor[protocol.Welcome](), "gap": reflect.TypeFor[protocol.Gap](), "drain": reflect.TypeFor[protocol.Drain](),
		"error": reflect.TypeFor[protocol.Error](), "ping": reflect.TypeFor[protocol.Beat](), "pong": reflect.TypeFor[protocol.Beat](),
		"subscribed": reflect.TypeFor[protocol.Subscribed](), "unsubscribed": reflect.TypeFor[protocol.Subscribed](),
		"close": reflect.TypeFor[protocol.Close](), "position": reflect.TypeFor[protocol.Ack](),
		"problem": reflect.TypeFor[problem.Problem](), "receipt": reflect.TypeFor[message.Receipt](),
		"event": reflect.TypeFor[lifecycle.Event](), "waiting": reflect.TypeFor[lifecycle.Message](),
	} {
		both(t, "members of "+schema, members(of), properties(schema))
	}
	// The payload is not decoded with the rest, so Msg does not have it.
	both(t, "members of msg", append(members(reflect.TypeFor[protocol.Msg]()), "data"), properties("msg"))
	both(t, "what servers say", append(members(reflect.TypeFor[protocol.FromServer]()), "data"), properties("welcome", "msg", "gap", "subscribed", "unsubscribed", "drain", "error", "ping", "pong"))
	both(t, "what clients say", members(reflect.TypeFor[protocol.FromClient]()), properties("hello", "auth", "ack", "sub", "unsub", "ping", "pong"))
	both(t, "members of post", tags(t, "services/collect", "post"), properties("post"))
}

// tags are the members of a struct that only its package can name.
func tags(t *testing.T, folder, name string) []string {
	t.Helper()
	var names []string
	for _, file := range sources(t, folder) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != name {
				return true
			}
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				t.Fatalf("%s.%s is no struct", folder, name)
			}
			for _, field := range fields.Fields.List {
				tag, _ := strconv.Unquote(field.Tag.Value)
				member, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
				names = append(names, member)
			}
			return false
		})
	}
	return names
}

// amongServices are the functions and constants of shared/subject whose subjects nobody but Weft's services uses, or
// that only say the same of all addresses. Every other one is a channel.
var amongServices = []string{
	"PublishAll", "Nodes", "AuthVerify", "AuthIssue", "HistoryRead", "HistoryOpen", "HistoryHeads", "AckAll", "QuarantineAll",
	"ReceiptAll", "InMapping", "PartitionMapping", "InPartition", "InFilter", "MsgFilter", "Collect", "Node", "NodeControl", "Ack",
	"Routed", "RoutedAll", "Presence", "PresenceAll", "EventAll", "Dispatch", "Admin", "InAnyPartition", "MsgAll", "MsgAnyPartition",
}

// channels are the others, with the address that asyncapi.yaml has for them.
var channels = map[string]string{
	"In": "weft.in.{tenant}.{address}", "Publish": "weft.publish.{tenant}.{address}", "Receipt": "weft.receipt.{tenant}.{address}",
	"Quarantine": "weft.quarantine.{reason}.{tenant}.{address}", "Msg": "weft.msg.{partition}.{tenant}.{address}",
	"Event": "weft.event.{tenant}.{what}",
}

func TestAsyncAPIHasTheSubjectsOfGo(t *testing.T) {
	d := readDocument(t)
	var known []string
	for _, file := range sources(t, "shared/subject") {
		for _, declared := range file.Decls {
			f, ok := declared.(*ast.FuncDecl)
			if ok && f.Recv == nil && f.Name.IsExported() && begins(f, "weft.") {
				known = append(known, f.Name.Name)
			}
			constants, ok := declared.(*ast.GenDecl)
			if !ok || constants.Tok != token.CONST {
				continue
			}
			for _, spec := range constants.Specs {
				if spec := spec.(*ast.ValueSpec); begins(spec, "weft.") {
					known = append(known, spec.Names[0].Name)
				}
			}
		}
	}
	known = append(known, "NodeControl") // it builds on Node
	known = slices.DeleteFunc(known, func(name string) bool { return name == "Cut" })
	both(t, "subjects", known, append(slices.Collect(maps.Keys(channels)), amongServices...))
	var addresses []string
	for _, name := range d.names("channels") {
		if address, _ := d.at("channels", name)["address"].(string); strings.HasPrefix(address, "weft.") {
			addresses = append(addresses, address)
		}
	}
	both(t, "addresses", slices.Collect(maps.Values(channels)), addresses)
	// What the addresses look like when they are built is compared where they are used, with a running fabric.
}

// begins says whether a string in a declaration begins with a word.
func begins(in ast.Node, word string) (found bool) {
	ast.Inspect(in, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			value, _ := strconv.Unquote(literal.Value)
			found = found || strings.HasPrefix(value, word)
		}
		return true
	})
	return found
}

func TestAsyncAPIHasTheHeadersOfGo(t *testing.T) {
	d := readDocument(t)
	isHeader := func(name, _ string) bool {
		return strings.HasPrefix(strings.ToLower(name), "header") || name == "OriginalPrefix"
	}
	known := append(declarations(t, "shared/message", isHeader), declarations(t, "services/collect/quarantine", isHeader)...)
	known = append(known, micro.ErrorHeader, micro.ErrorCodeHeader, jetstream.MsgIDHeader)
	var written []string
	for _, schema := range d.names("components", "schemas") {
		if !strings.HasSuffix(schema, "Headers") {
			continue
		}
		written = append(written, d.names("components", "schemas", schema, "properties")...)
		if prefixes, ok := d.at("components", "schemas", schema)["patternProperties"].(map[string]any); ok {
			for prefix := range prefixes {
				written = append(written, strings.TrimPrefix(prefix, "^"))
			}
		}
	}
	both(t, "headers", known, written)
}
