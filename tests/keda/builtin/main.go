// Command builtin asks a database through KEDA's own postgresql scaler.
//
// It reads a trigger a line from standard input, as JSON, and writes for each what KEDA takes: the value, the target and
// the activity, or nothing but an error. tests/it/migrate.rs compares them with its model of the scaler, and
// with the answers of what `clapometer migrate` makes of the same triggers.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"
	"strconv"

	"github.com/go-logr/logr"
	v2 "k8s.io/api/autoscaling/v2"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/kedacore/keda/v2/pkg/scalers"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
)

// trigger is what stands in a manifest, and the password that its TriggerAuthentication would bring.
type trigger struct {
	Metadata map[string]string `json:"metadata"`
	Password string            `json:"password"`
}

// answer has doubles as text, because not every reader of JSON gets the last bit of a number right.
type answer struct {
	Value  string `json:"value,omitempty"`
	Target string `json:"target,omitempty"`
	Active bool   `json:"active"`
	Error  string `json:"error,omitempty"`
}

func main() {
	logf.SetLogger(logr.Discard())
	encoder := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var given trigger
		err := json.Unmarshal(lines.Bytes(), &given)
		if err == nil {
			err = encoder.Encode(ask(context.Background(), given))
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}

func ask(ctx context.Context, given trigger) answer {
	scaler, err := scalers.NewPostgreSQLScaler(ctx, &scalersconfig.ScalerConfig{
		ScalableObjectName:      "builtin",
		ScalableObjectNamespace: "default",
		MetricType:              v2.AverageValueMetricType,
		TriggerMetadata:         given.Metadata,
		AuthParams:              map[string]string{"password": given.Password},
	})
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer func() { _ = scaler.Close(ctx) }()
	external := scaler.GetMetricSpecForScaling(ctx)[0].External
	metrics, active, err := scaler.GetMetricsAndActivity(ctx, external.Metric.Name)
	if err != nil {
		return answer{Error: err.Error()}
	}
	text := func(number float64) string { return strconv.FormatFloat(number, 'g', -1, 64) }
	return answer{
		Value:  text(metrics[0].Value.AsApproximateFloat64()),
		Target: text(external.Target.AverageValue.AsApproximateFloat64()),
		Active: active,
	}
}
