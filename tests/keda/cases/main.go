// Command cases writes what KEDA and Kubernetes decide in many drawn situations, a JSON document a line.
//
// Nothing is decided here: the answers of a scaler go through KEDA's own external scaler over gRPC, its
// functions for ScaledJobs and its scale executor on a client that holds the Jobs in memory; replicas
// come from Kubernetes' own replica calculator. The same seed draws the same situations, and
// src/keda/cases.rs compares what the library makes of them.
//
//	go run ./cases [-seed N] [-jobs N] [-objects N] [-replicas N] > cases.jsonl
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"log"
	"math/rand/v2"
	"os"

	"github.com/go-logr/logr"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	seed := flag.Uint64("seed", 21, "what the situations are drawn from")
	jobs := flag.Int("jobs", 6000, "how many polls of a ScaledJob")
	objects := flag.Int("objects", 1500, "how many polls of a ScaledObject")
	replicas := flag.Int("replicas", 2500, "how many decisions of the horizontal pod autoscaler")
	flag.Parse()
	logf.SetLogger(logr.Discard())

	random := rand.New(rand.NewPCG(*seed, 0))
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	write := func(situation any, err error) {
		if err == nil {
			err = encoder.Encode(situation)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	scaler, err := serve()
	if err != nil {
		log.Fatal(err)
	}
	for range *jobs {
		write(scaledJob(random, scaler))
	}
	for range *objects {
		write(scaledObject(random))
	}
	for range *replicas {
		write(autoscaler(random, scaler))
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}
