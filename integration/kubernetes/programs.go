//go:build tools

// Package kubernetes is a module of its own: it pins the Kubernetes programs that internal/kube builds for the
// tests and the demo, so that the main module doesn't depend on them.
package kubernetes

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
)
