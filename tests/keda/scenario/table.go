package scenario

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
)

// A Table is what was seen of scenarios, in a column for each version of KEDA, the newest first.
type Table struct {
	versions []string
	claims   map[string]string            // by scenario
	seen     map[string]map[string]string // by scenario, then by version
}

// NewTable returns a table of one version.
func NewTable(version string, results []Result) *Table {
	table := &Table{claims: map[string]string{}, seen: map[string]map[string]string{}}
	table.Add(version, results)
	return table
}

// ReadTable returns the table that String has written somewhere in a text.
func ReadTable(text string) (*Table, error) {
	table := &Table{claims: map[string]string{}, seen: map[string]map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") {
			continue
		}
		// What is in a cell has no bar without a backslash.
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		if len(cells) < 3 || table.versions != nil && len(cells) != len(table.versions)+2 {
			return nil, fmt.Errorf("a line of the table has %d cells: %s", len(cells), line)
		}
		if table.versions == nil {
			table.versions = []string{}
			for _, title := range cells[2:] {
				table.versions = append(table.versions, strings.TrimPrefix(title, "seen on KEDA "))
			}
			continue
		}
		name := strings.Trim(cells[0], "`")
		table.claims[name], table.seen[name] = cells[1], map[string]string{}
		for i, version := range table.versions {
			table.seen[name][version] = cells[2+i]
		}
	}
	return table, nil
}

// Add puts what was seen on a version into its column. What was not as claimed, or was seen of another claim, is not kept.
func (t *Table) Add(version string, results []Result) {
	if !slices.Contains(t.versions, version) {
		t.versions = append(t.versions, version)
		slices.SortFunc(t.versions, newest)
	}
	for _, result := range results {
		claim := cell(result.Claim)
		if t.claims[result.Name] != claim {
			t.claims[result.Name], t.seen[result.Name] = claim, map[string]string{}
		}
		t.seen[result.Name][version] = cell(result.seen())
	}
}

// Keep removes the scenarios that are not among these.
func (t *Table) Keep(scenarios []Scenario) {
	for name := range t.claims {
		if !slices.ContainsFunc(scenarios, func(s Scenario) bool { return s.Name == name }) {
			delete(t.claims, name)
		}
	}
}

func newest(a, b string) int {
	compared, err := version.MustParseGeneric(b).Compare(a)
	if err != nil {
		panic(err) // both were in the title of a column or name the module that was built
	}
	return compared
}

// String returns the table in Markdown, its rows in the order of All. Those of executables come last.
func (t *Table) String() string {
	var text strings.Builder
	text.WriteString("| scenario | claimed |")
	for _, version := range t.versions {
		text.WriteString(" seen on KEDA " + version + " |")
	}
	text.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(t.versions)) + "\n")
	for _, name := range t.names() {
		fmt.Fprintf(&text, "| `%s` | %s |", name, t.claims[name])
		for _, version := range t.versions {
			text.WriteString(" " + orElse(t.seen[name][version], "not run") + " |")
		}
		text.WriteString("\n")
	}
	return text.String()
}

func (t *Table) names() []string {
	var names, others []string
	for _, scenario := range slices.Concat(All...) {
		if _, is := t.claims[scenario.Name]; is {
			names = append(names, scenario.Name)
		}
	}
	for name := range t.claims {
		if !slices.Contains(names, name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	return append(names, others...)
}

func (r Result) seen() string {
	if r.Err != nil {
		return "**NOT SO:** " + r.Err.Error()
	}
	return fmt.Sprintf("%s (%s)", r.Seen, r.Ended.UTC().Format("2 January 2006"))
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", "<br>").Replace(text)
}

// Write replaces the tables of a document: those between the comments `make keda` and `make keda-long`, and `end`. Results go into
// the columns of a version of KEDA; what stands of other versions and scenarios stays. on names what else was run.
func Write(document, version, on string, results []Result) (string, error) {
	for _, long := range []bool{false, true} {
		comment := "make keda"
		if long {
			comment = "make keda-long"
		}
		block := regexp.MustCompile(`(?s)(<!-- ` + comment + ` -->\n)(.*?)(<!-- end -->)`)
		parts := block.FindStringSubmatchIndex(document)
		if parts == nil {
			return "", fmt.Errorf("the document has no place for the table of %s", comment)
		}
		table, err := ReadTable(document[parts[4]:parts[5]])
		if err != nil {
			return "", err
		}
		elsewhere := func(s Scenario) bool { return s.Long != long }
		table.Add(version, slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return elsewhere(r.Scenario) }))
		table.Keep(slices.DeleteFunc(slices.Concat(All...), elsewhere))
		document = document[:parts[3]] + "\n" + on + "\n\n" + table.String() + "\n" + document[parts[6]:]
	}
	return document, nil
}
