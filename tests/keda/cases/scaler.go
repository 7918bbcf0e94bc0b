package main

import (
	"context"
	"math"
	"math/rand/v2"
	"net"
	"strconv"

	"google.golang.org/grpc"
	v2 "k8s.io/api/autoscaling/v2"
	"k8s.io/metrics/pkg/apis/external_metrics"

	"github.com/kedacore/keda/v2/pkg/scalers"
	pb "github.com/kedacore/keda/v2/pkg/scalers/externalscaler"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
)

const metricName = "rows"

// number is a pair on the wire: the integer that KEDA reads, and the double that goes before it.
type number struct {
	Integer int64  `json:"i,omitempty"`
	Double  double `json:"d,omitempty"`
}

// double is written as text, because not every reader of JSON gets the last bit of a number right.
type double float64

func (d double) MarshalText() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(d), 'g', -1, 64), nil
}

// answer is what a trigger's scaler says, and what KEDA makes of the numbers.
type answer struct {
	Target number   `json:"target"`
	Values []number `json:"values"`
	Active bool     `json:"active"`
	// TargetSize and Sum are KEDA's own doubles.
	TargetSize double `json:"target_size"`
	Sum        double `json:"sum"`
}

// server is an external scaler that gives the answer it was told last.
type server struct {
	pb.UnimplementedExternalScalerServer
	address string
	answer  *answer
}

func serve() (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	scaler := &server{address: listener.Addr().String()}
	grpcServer := grpc.NewServer()
	pb.RegisterExternalScalerServer(grpcServer, scaler)
	go func() { _ = grpcServer.Serve(listener) }()
	return scaler, nil
}

func (s *server) GetMetricSpec(context.Context, *pb.ScaledObjectRef) (*pb.GetMetricSpecResponse, error) {
	target := s.answer.Target
	spec := &pb.MetricSpec{MetricName: metricName, TargetSize: target.Integer, TargetSizeFloat: float64(target.Double)}
	return &pb.GetMetricSpecResponse{MetricSpecs: []*pb.MetricSpec{spec}}, nil
}

func (s *server) GetMetrics(context.Context, *pb.GetMetricsRequest) (*pb.GetMetricsResponse, error) {
	response := &pb.GetMetricsResponse{}
	for _, value := range s.answer.Values {
		metric := &pb.MetricValue{MetricName: metricName, MetricValue: value.Integer, MetricValueFloat: float64(value.Double)}
		response.MetricValues = append(response.MetricValues, metric)
	}
	return response, nil
}

func (s *server) IsActive(context.Context, *pb.ScaledObjectRef) (*pb.IsActiveResponse, error) {
	return &pb.IsActiveResponse{Result: s.answer.Active}, nil
}

// ask has KEDA's external scaler ask for this answer.
func (s *server) ask(metricType v2.MetricTargetType, given *answer) ([]v2.MetricSpec, []external_metrics.ExternalMetricValue, bool, error) {
	s.answer = given
	ctx := context.Background()
	scaler, err := scalers.NewExternalScaler(&scalersconfig.ScalerConfig{
		ScalableObjectName:      "cases",
		ScalableObjectNamespace: "default",
		MetricType:              metricType,
		TriggerMetadata:         map[string]string{"scalerAddress": s.address},
	})
	if err != nil {
		return nil, nil, false, err
	}
	specs := scaler.GetMetricSpecForScaling(ctx)
	metrics, active, err := scaler.GetMetricsAndActivity(ctx, specs[0].External.Metric.Name)
	return specs, metrics, active, err
}

// draw is a number as scalers send it: mostly counts, sometimes with a fraction, rarely something odd.
// Beyond 2^62 KEDA 2.21 itself falls over (it converts the ceiling to an integer without looking).
func draw(random *rand.Rand, most int64) number {
	count := random.Int64N(most + 1)
	fraction := math.Round(random.Float64()*1e4) / 1e4
	switch random.IntN(20) {
	case 0:
		return number{}
	case 1:
		return number{Integer: -count}
	case 2:
		return number{Integer: count, Double: double(-fraction)}
	case 3:
		return number{Double: double(fraction / 100)}
	case 4:
		return number{Double: double(math.Ldexp(random.Float64(), random.IntN(61)))}
	case 5:
		return number{Integer: random.Int64N(1 << 61)}
	case 6, 7, 8:
		return number{Integer: count}
	case 9, 10:
		return number{Integer: count, Double: double(count)}
	case 11, 12, 13, 14:
		return number{Double: double(float64(count) + fraction)}
	default:
		return number{Double: double(count)}
	}
}
