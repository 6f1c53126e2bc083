package fabric

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/subject"
)

// section returns the table of a section of nats/README.md: its rows without the head, each as trimmed cells.
func section(t *testing.T, name string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../../nats/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+name+"\n")
	if !ok {
		t.Fatalf("nats/README.md has no section %q", name)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var rows [][]string
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("the section %q has no table", name)
	}
	return rows[2:]
}

// compare reports what only the definitions and what only the table has.
func compare(t *testing.T, what string, defined, written []string) {
	t.Helper()
	for _, line := range defined {
		if !slices.Contains(written, line) {
			t.Errorf("%s: nats/README.md lacks %s", what, line)
		}
	}
	for _, line := range written {
		if !slices.Contains(defined, line) {
			t.Errorf("%s: nats/README.md has %s, which no definition makes", what, line)
		}
	}
}

func ticks(s string) string { return "`" + s + "`" }

// partitioned puts the placeholder where the definitions have partition 0.
func partitioned(s string) string {
	s = strings.ReplaceAll(s, "_0", "_<p>")
	return strings.ReplaceAll(s, ".0.", ".<p>.")
}

func TestTableOfStreams(t *testing.T) {
	const serverMax = 1 << 20
	retention := map[jetstream.RetentionPolicy]string{jetstream.WorkQueuePolicy: "work queue", jetstream.LimitsPolicy: "limits"}
	var defined, written []string
	for _, s := range Streams(Facts{Epoch: "e", Partitions: 1}, Options{MaxPayload: serverMax}) {
		c := s.Config
		kept, largest, protected, consumer := "until acknowledged", "server's", "", ""
		if c.MaxAge > 0 {
			kept = c.MaxAge.String()
		}
		if c.MaxMsgSize > 0 {
			largest = fmt.Sprintf("server's less %d bytes", serverMax-c.MaxMsgSize)
		}
		if c.DenyDelete && c.DenyPurge {
			protected = "no delete, no purge"
		}
		for i, c := range s.Consumers {
			if i > 0 {
				consumer += ", "
			}
			consumer += ticks(c.Durable)
		}
		subjects := make([]string, len(c.Subjects))
		for i, s := range c.Subjects {
			subjects[i] = ticks(partitioned(s))
		}
		defined = append(defined, fmt.Sprint([]string{
			ticks(partitioned(c.Name)), strings.Join(subjects, ", "), retention[c.Retention], kept,
			c.Duplicates.String(), largest, consumer, protected,
		}))
		if c.AllowRollup || c.AllowMsgTTL || c.AllowMsgSchedules || c.Storage != jetstream.FileStorage {
			t.Errorf("%s is not what the text says of all streams", c.Name)
		}
	}
	for _, row := range section(t, "Streams") {
		written = append(written, fmt.Sprint(row))
	}
	compare(t, "streams", defined, written)
}

func TestTableOfConsumers(t *testing.T) {
	of, config := map[string][]string{}, map[string]jetstream.ConsumerConfig{}
	for _, s := range Streams(Facts{Epoch: "e", Partitions: 1}, Options{MaxPayload: 1 << 20}) {
		for _, c := range s.Consumers {
			where := ticks(partitioned(s.Config.Name))
			if c.FilterSubject != "" {
				where += ": " + ticks(c.FilterSubject)
			}
			of[c.Durable], config[c.Durable] = append(of[c.Durable], where), c
		}
	}
	var defined, written []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		c := config[name]
		deliveries := strconv.Itoa(c.MaxDeliver)
		if c.MaxDeliver == -1 {
			deliveries = "without end"
		}
		defined = append(defined, fmt.Sprint([]string{
			ticks(c.Durable), strings.Join(of[name], ", "), c.AckWait.String(), deliveries, strconv.Itoa(c.MaxAckPending),
		}))
	}
	for _, row := range section(t, "Consumers") {
		written = append(written, fmt.Sprint(row))
	}
	compare(t, "consumers", defined, written)
}

func TestTableOfTheBucket(t *testing.T) {
	key := func(made, name string) string { return ticks(made) + " " + ticks(name) }
	defined := []string{
		key(strings.Replace(LeaseKey("<stage>", 0), ".0", ".<p>", 1), "LeaseKey"),
		key(AliveKey("<stage>", "<instance>"), "AliveKey"),
		key(strings.Replace(TrialKey("<stage>", 0), ".0", ".<p>", 1), "TrialKey"),
	}
	var written []string
	for _, row := range section(t, "Bucket") {
		written = append(written, row[0]+" "+row[1])
	}
	compare(t, "keys", defined, written)
}

// anAddress gives tokens that no subject has otherwise; they stand for the placeholders.
var anAddress = subject.Address{Tenant: "Tenant", Kind: subject.User, ID: "Id"}

var placeholders = strings.NewReplacer(
	"Endpoint", "<endpoint>", "Instance", "<instance>", "What.What", "<tenant>.<what>", "Tenant.user.Id", "<tenant>.<kind>.<id>", ".0.", ".<p>.", ".0", ".<p>", "(0)", "(<p>)", "Node", "<node>", "Reason", "<reason>")

// argument makes the arguments that the subject builders take.
func argument(parameter reflect.Type, n int) reflect.Value {
	switch {
	case parameter == reflect.TypeFor[subject.Address]():
		return reflect.ValueOf(anAddress)
	case parameter.Kind() == reflect.Int:
		return reflect.ValueOf(0)
	case parameter.Name() == "Code":
		return reflect.ValueOf("Reason").Convert(parameter)
	case n < len(words):
		return reflect.ValueOf(words[n])
	default:
		return reflect.ValueOf(anAddress.Tokens())
	}
}

// words stand for what the strings of a builder mean, by number; the tokens of an address have the number 5.
var words = []string{"", "Node", "Instance", "Endpoint", "What"}

// builders are the functions of shared/subject that make a subject, with what their strings mean.
var builders = map[string]struct {
	build   any
	strings int
}{
	"PartitionMapping": {subject.PartitionMapping, 0}, "In": {subject.In, 0}, "Publish": {subject.Publish, 0},
	"InPartition": {subject.InPartition, 0}, "InFilter": {subject.InFilter, 0}, "InAnyPartition": {subject.InAnyPartition, 0},
	"MsgAnyPartition": {subject.MsgAnyPartition, 0}, "Msg": {subject.Msg, 0},
	"MsgFilter": {subject.MsgFilter, 0}, "Collect": {subject.Collect, 0}, "Node": {subject.Node, 1},
	"NodeControl": {subject.NodeControl, 1}, "Ack": {subject.Ack, 1}, "Quarantine": {subject.Quarantine, 5},
	"Receipt": {subject.Receipt, 5}, "Routed": {subject.Routed, 2}, "Presence": {subject.Presence, 1}, "Event": {subject.Event, 4},
	"Dispatch": {subject.Dispatch, 0}, "Admin": {subject.Admin, 3},
}

func TestTableOfSubjects(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../subject/subject.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var defined, written []string
	for name, value := range constants(file) {
		if strings.HasPrefix(value, "weft.") {
			defined = append(defined, ticks(value)+" "+ticks(name))
		}
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || !f.Name.IsExported() || !makesSubject(f) {
			continue
		}
		b, known := builders[f.Name.Name]
		if !known {
			t.Errorf("subject.%s is new: add it to builders here and to nats/README.md", f.Name.Name)
			continue
		}
		call := reflect.ValueOf(b.build)
		var arguments []reflect.Value
		for parameter := range call.Type().Ins() {
			arguments = append(arguments, argument(parameter, b.strings))
		}
		pattern := placeholders.Replace(call.Call(arguments)[0].String())
		defined = append(defined, ticks(pattern)+" "+ticks(f.Name.Name))
	}
	for _, row := range section(t, "Subjects") {
		written = append(written, row[0]+" "+row[1])
	}
	compare(t, "subjects", defined, written)
}

// makesSubject says whether a function of subject.go returns one string, and is not about tokens only.
func makesSubject(f *ast.FuncDecl) bool {
	results := f.Type.Results
	if f.Recv != nil || results == nil || len(results.List) != 1 || f.Name.Name == "Unaddressed" {
		return false
	}
	result, ok := results.List[0].Type.(*ast.Ident)
	return ok && result.Name == "string"
}

// constants are the string constants of a file, by name.
func constants(file *ast.File) map[string]string {
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			found[spec.Names[0].Name], _ = strconv.Unquote(literal.Value)
		}
		return true
	})
	return found
}

func TestTableOfHeaders(t *testing.T) {
	var defined, written []string
	for _, folder := range []string{"../message", "../history", "../node", "../../services/collect", "../../services/collect/quarantine"} {
		files, err := filepath.Glob(folder + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files (%v)", folder, err)
		}
		for _, path := range files {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range constants(file) {
				if strings.HasPrefix(strings.ToLower(name), "header") || name == "OriginalPrefix" {
					defined = append(defined, ticks(value))
				}
			}
		}
	}
	for _, row := range section(t, "Headers") {
		written = append(written, row[0])
	}
	compare(t, "headers", defined, written)
}
