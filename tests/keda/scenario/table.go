package scenario

import (
	"fmt"
	"strings"
)

// Table returns the results as a table in Markdown.
func Table(results []Result) string {
	var text strings.Builder
	text.WriteString("| scenario | claimed | seen |\n| --- | --- | --- |\n")
	for _, result := range results {
		seen := result.Seen
		if result.Err != nil {
			seen = "**NOT SO:** " + result.Err.Error()
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s |\n", result.Name, cell(result.Claim), cell(seen))
	}
	return text.String()
}

func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", "<br>").Replace(text)
}
